"""The numbers of methods.md, section 4: counts on the real architectures' shapes, and the identities."""

from dataclasses import replace

import pytest
import torch

from fedlora.core.adapter import Adapter, AdapterSpec, Start, effective, fresh_adapter, parameters
from fedlora.core.lowrank import compress, delta, stack
from fedlora.core.payload import tensors_at
from fedlora.core.rounds import Client, Fit, Fitted
from fedlora.core.update import Update
from fedlora.methods.base import State
from fedlora.methods.fedit import FedIT
from fedlora.methods.fedsa import FedSA
from fedlora.methods.ffa import FFA
from fedlora.methods.flexlora import FlexLoRA
from fedlora.methods.lora_a2 import LoRAA2
from fedlora.methods.replicate import Replicate
from fedlora.methods.zeropad import ZeroPad
from fedlora.training.bases.maps import find_maps

SMALL = AdapterSpec({"a": (5, 7), "b": (6, 4)}, rank=4, scale=1.0)


def shapes_of(config, targets=None):
    """The adapted maps of an architecture, built without any client state."""
    from transformers import AutoModelForSequenceClassification

    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    return {name: (m.out_features, m.in_features) for name, m in find_maps(model, targets, None).items()}


def roberta_base():
    from transformers import RobertaConfig

    return shapes_of(RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1))


def meta_start(shapes, rank):
    A = {m: torch.empty(rank, d_in, device="meta") for m, (_, d_in) in shapes.items()}
    return Start(Adapter(A, {m: torch.empty(d_out, rank, device="meta") for m, (d_out, _) in shapes.items()}))


def uploaded(method, shapes, rank, round=1):
    start = meta_start(shapes, rank)
    payload, _ = method.upload(start, start, {}, round)
    return sum(parameters(tensors_at(payload, side)) for side in payload)


def test_roberta_base():
    shapes = roberta_base()
    assert len(shapes) == 72
    assert uploaded(FedIT(), shapes, 1) == 165_888
    assert uploaded(FFA(), shapes, 1) == 82_944
    assert uploaded(FedSA(), shapes, 1) == 82_944
    assert uploaded(FedIT(), shapes, 8) * 30 * 50 == 1_990_656_000
    assert uploaded(FFA(), shapes, 8) * 30 * 50 == 995_328_000


def test_distilbert_and_roberta_large():
    from transformers import DistilBertConfig, RobertaConfig

    shapes = shapes_of(DistilBertConfig(), ["q_lin", "k_lin", "v_lin"])
    assert uploaded(Replicate(), shapes, 1) == 27_648
    assert 0.1 * uploaded(Replicate(), shapes, 20) + 0.9 * uploaded(Replicate(), shapes, 5) == 179_712
    assert uploaded(Replicate(), shapes, 20) == 552_960
    large = RobertaConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
    shapes = shapes_of(large, ["query", "value"])
    assert uploaded(FedIT(), shapes, 8) == 786_432
    assert uploaded(FFA(), shapes, 8) == 393_216


@pytest.mark.parametrize("round", [1, 2])
def test_lora_a2_keeps_exactly_the_budget_over_the_whole_model(round):
    """144 slots for budget 2 on RoBERTa-base, in one choice; round 1 trains B."""
    shapes = roberta_base()
    spec = AdapterSpec(shapes, 2, 8.0)
    method = LoRAA2()
    state = method.init(spec, seed=0)
    if round == 2:
        B = {m: torch.randn_like(t) for m, t in state.adapter.output.items()}
        state = replace(state, adapter=state.adapter.with_side("output", B))
    client = Client("c", 10, 2)
    programme = method.client(method.dispatch(state, client, round), {}, client, spec, round)
    probe = next(programme)
    assert probe.sides == ({"output"} if round == 1 else {"input"})
    assert (probe.probe, probe.mask) == (True, None)
    generator = torch.Generator().manual_seed(1)
    side = method.active(round)
    moved = {m: t + torch.randn(t.shape, generator=generator) for m, t in probe.start.adapter.side(side).items()}
    real = programme.send(Fitted(Start(probe.start.adapter.with_side(side, moved)), 1, 0.0))
    assert isinstance(real, Fit)
    assert real.start is probe.start  # the probe is forgotten
    chosen = {m: int(mask.sum()) for m, mask in real.mask.items()}
    assert sum(chosen.values()) == 144
    assert min(chosen.values()) < 2 < max(chosen.values()) <= 16
    with pytest.raises(StopIteration) as stop:
        programme.send(Fitted(Start(probe.start.adapter.with_side(side, moved)), 1, 0.0))
    sent = stop.value.value.update.sides[side]
    assert sum(entry.slots.numel() for entry in sent.values()) == 144
    assert {m: entry.slots.numel() for m, entry in sent.items()} == {m: n for m, n in chosen.items() if n}


def drawn(seed, rank, spec=SMALL):
    generator = torch.Generator().manual_seed(seed)
    A = {m: torch.randn(rank, d_in, generator=generator) for m, (_, d_in) in spec.shapes.items()}
    B = {m: torch.randn(d_out, rank, generator=generator) for m, (d_out, _) in spec.shapes.items()}
    return Adapter(A, B)


def uploads_of(adapters, weights, sides=("input", "output")):
    for number, (adapter, n) in enumerate(zip(adapters, weights, strict=True)):
        client = Client(f"c{number}", n, max(adapter.ranks().values()))
        yield Update(client, {side: adapter.side(side) for side in sides})


def test_the_error_of_fedit_is_the_covariance():
    """sum_k w_k B_k A_k - B A = sum_k w_k (B_k - B)(A_k - A); zero when one factor is equal everywhere."""
    adapters, n = [drawn(k, 3) for k in range(4)], [1, 2, 3, 4]
    w = [count / 10 for count in n]
    state = State(drawn(9, 3))
    mean = FedIT().aggregate(state, uploads_of(adapters, n), 1).adapter
    for module in SMALL.shapes:
        true = sum(share * delta(own.pair(module)) for share, own in zip(w, adapters, strict=True))
        covariance = sum(
            share * (own.output[module] - mean.output[module]) @ (own.input[module] - mean.input[module])
            for share, own in zip(w, adapters, strict=True)
        )
        torch.testing.assert_close(true - delta(mean.pair(module)), covariance, rtol=1e-4, atol=1e-4)
    same_A = [own.with_side("input", adapters[0].input) for own in adapters]
    mean = FedIT().aggregate(state, uploads_of(same_A, n), 1).adapter
    for module in SMALL.shapes:
        true = sum(share * delta(own.pair(module)) for share, own in zip(w, same_A, strict=True))
        torch.testing.assert_close(true, delta(mean.pair(module)), rtol=1e-4, atol=1e-4)


def test_replication_is_padding_from_the_owners_mean():
    """The paper's procedure done literally: fill each client's missing slots, then average."""
    ranks, n = [4, 2, 1, 4], [3, 5, 1, 2]
    adapters = [drawn(k, r) for k, r in enumerate(ranks)]
    new = Replicate().aggregate(State(drawn(9, 4)), uploads_of(adapters, n), 1).adapter
    for side, axis in (("input", 0), ("output", 1)):
        for module in SMALL.shapes:
            tensors = [own.side(side)[module] for own in adapters]
            filled = []
            for tensor in tensors:
                slots = list(tensor.unbind(axis))
                for i in range(len(slots), 4):
                    owners = [
                        (count, t.unbind(axis)[i]) for count, t in zip(n, tensors, strict=True) if t.shape[axis] > i
                    ]
                    slots.append(sum(count * t for count, t in owners) / sum(count for count, _ in owners))
                filled.append(torch.stack(slots, axis))
            mean = sum(count * t for count, t in zip(n, filled, strict=True)) / sum(n)
            torch.testing.assert_close(new.side(side)[module], mean, rtol=1e-5, atol=1e-5)


def test_at_equal_ranks_replication_and_zero_padding_are_fedit():
    adapters, n = [drawn(k, 3) for k in range(3)], [1, 5, 2]
    state = State(drawn(9, 3))
    expected = FedIT().aggregate(state, uploads_of(adapters, n), 1).adapter
    for method in (Replicate(), ZeroPad()):
        found = method.aggregate(state, uploads_of(adapters, n), 1).adapter
        for side in ("input", "output"):
            for module in SMALL.shapes:
                torch.testing.assert_close(found.side(side)[module], expected.side(side)[module])


def test_zero_padding_scales_the_tail_by_the_share_and_its_product_by_the_square():
    """The diagnostic in numbers: a share of 1/4 owns slots 2 and 3; its product falls to 1/16."""
    high, low = drawn(0, 4), drawn(1, 2)
    state = State(drawn(9, 4))
    zero = ZeroPad().aggregate(state, uploads_of([high, low], [1, 3]), 1).adapter
    full = Replicate().aggregate(state, uploads_of([high, low], [1, 3]), 1).adapter
    for module in SMALL.shapes:
        tail = high.output[module][:, 2:] @ high.input[module][2:]
        torch.testing.assert_close(zero.output[module][:, 2:] @ zero.input[module][2:], tail / 16)
        torch.testing.assert_close(full.output[module][:, 2:] @ full.input[module][2:], tail)


def test_lora_a2_moves_a_slot_by_the_owners_share_of_their_mean():
    method = LoRAA2(pool_rank=4)
    state = method.init(SMALL, 0)
    sent = [
        {"output": {"a": {"slots": torch.tensor([1, 3]), "values": torch.ones(5, 2)}}},
        {"output": {"a": {"slots": torch.tensor([3]), "values": 4 * torch.ones(5, 1)}}},
        {"output": {"b": {"slots": torch.tensor([0]), "values": torch.ones(6, 1)}}},
    ]
    uploads = (
        Update.from_payload(Client(f"c{k}", n, 1), {"adapter": payload})
        for k, (n, payload) in enumerate(zip([2, 1, 5], sent, strict=True))
    )
    B = method.aggregate(state, uploads, 1).adapter.output
    share, mean = 3 / 8, (2 * 1 + 1 * 4) / 3
    torch.testing.assert_close(B["a"][0], torch.tensor([0.0, 2 / 8, 0.0, share * mean]))
    torch.testing.assert_close(B["b"][0], torch.tensor([5 / 8, 0.0, 0.0, 0.0]))


def test_flexlora_before_and_after_truncation():
    ranks, n = [4, 2, 1], [3, 5, 2]
    adapters = [drawn(k, r) for k, r in enumerate(ranks)]
    new = FlexLoRA().aggregate(State(drawn(9, 4)), uploads_of(adapters, n), 1).adapter
    for module in SMALL.shapes:
        schema = [(count / 10, own.pair(module)) for count, own in zip(n, adapters, strict=True)]
        true = sum(w * delta(pair) for w, pair in schema)
        torch.testing.assert_close(delta(stack(schema)), true, rtol=1e-5, atol=1e-5)
        S = torch.linalg.svdvals(true.double())
        error = true.double() - delta(new.pair(module)).double()
        assert float(error.norm()) == pytest.approx(float(S[4:].square().sum().sqrt()), rel=1e-3, abs=1e-6)
        spectral = float(S[4]) if S.numel() > 4 else 0.0
        assert float(torch.linalg.matrix_norm(error, 2)) == pytest.approx(spectral, rel=1e-3, abs=1e-5)


def test_flexlora_at_mixed_ranks_shrinks_what_was_never_trained():
    """No training at all: singular value i shrinks to the weight share of the clients that own slot i."""
    ranks, n = [4, 2, 1], [3, 5, 2]
    whole = drawn(0, 4)
    settled = {m: compress(whole.pair(m), 4) for m in SMALL.shapes}
    state = State(Adapter({m: p.A for m, p in settled.items()}, {m: p.B for m, p in settled.items()}))
    cut = [
        Adapter({m: p.A[:r] for m, p in settled.items()}, {m: p.B[:, :r] for m, p in settled.items()}) for r in ranks
    ]
    new = FlexLoRA().aggregate(state, uploads_of(cut, n), 1)
    shares = torch.tensor([1.0, 0.8, 0.3, 0.3], dtype=torch.float64)
    for module in SMALL.shapes:
        before = torch.linalg.svdvals(delta(settled[module]).double())[:4]
        after = torch.linalg.svdvals(effective(Start(new.adapter), SMALL)[module])[:4]
        torch.testing.assert_close(after, (before * shares).sort(descending=True).values, rtol=1e-4, atol=1e-5)


def test_lora_a2_does_not_put_its_pool_into_the_scale():
    spec = AdapterSpec(SMALL.shapes, rank=2, scale=8.0)
    assert fresh_adapter(spec, LoRAA2().slots(spec), 0).ranks() == {"a": 16, "b": 16}
    assert spec.scale == 8.0
    assert [LoRAA2().slots(replace(spec, rank=r)) for r in (1, 16, 32)] == [16, 16, 32]
