"""The packed forward against the padded one: the same numbers, whatever company a client trains in."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy
import pytest
import torch
from tiny_models import DECODERS, ENCODERS, owned_by, some_tokens, tiny_model, tokenizer

from fedlora.core.adapter import BOTH, INPUT, OUTPUT, Adapter, Start, fresh_adapter
from fedlora.core.kinds import vera_projection
from fedlora.core.lowrank import LowRank
from fedlora.core.payload import walk_tensors
from fedlora.core.penalties import Proximal, Tail
from fedlora.core.rounds import Client, Duration, Failure, Fit, FitJob, Order, ScoreJob
from fedlora.federation.client import serve
from fedlora.federation.pipeline import Pipeline
from fedlora.federation.transport import join_head
from fedlora.methods.base import State
from fedlora.methods.lora_a2 import LoRAA2
from fedlora.training.bases.model import make_base
from fedlora.training.bases.model_files import write_model
from fedlora.training.data.split import Owned
from fedlora.training.forward import attention, packing
from fedlora.training.forward.packed import PaddedInstead, fastest_forward
from fedlora.training.forward.packing import pack
from fedlora.training.forward.padded import PaddedForward
from fedlora.training.forward.trial import packed_encoder
from fedlora.training.loop import ModelTrainer
from fedlora.training.settings import TrainSettings
from fedlora.training.tasks.classification import Classification

LABELS = ("no", "yes", "perhaps")
STEPS = 20


def base_of(kind, dtype=torch.float64):
    """Float64, so that only arithmetic can differ, not rounding."""
    return make_base(tiny_model(kind).to(dtype), tokenizer(), kind, LABELS)


def wide(adapter):
    own = [{m: t.double() for m, t in part.items()} for part in (adapter.input, adapter.output, adapter.dense)]
    return Adapter(*own, adapter.kind)


def trainers(base, spec, settings, owned, **others):
    tokens = some_tokens(40)
    named = {"train": tokens, "test": tokens, "owned": owned, "seed": 0, "rounds": 4}
    forwards = PaddedForward(base, spec), fastest_forward(base, spec, **others)
    return [ModelTrainer(forward, Classification(LABELS), settings, **named) for forward in forwards]


def uneven(count=40):
    """Clients of 3, 9, 1 and 27 examples."""
    cuts = numpy.split(numpy.arange(count), [3, 12, 13])
    return {f"c{k}": Owned(own, own[:0], own) for k, own in enumerate(cuts)}


def begun(spec, base, seed, rank):
    adapter = fresh_adapter(spec, rank, seed)
    draw = torch.Generator().manual_seed(seed)
    B = {m: 0.1 * torch.randn(t.shape, generator=draw) for m, t in adapter.output.items()}
    return Start(wide(adapter.with_side("output", B).with_dense(base.head)))


def agree(one, other, tolerance):
    for left, right in zip(one, other, strict=True):
        assert left.steps == right.steps
        assert left.loss == pytest.approx(right.loss, rel=tolerance, abs=tolerance)
        for part in ("input", "output", "dense"):
            torch.testing.assert_close(
                getattr(left.start.adapter, part), getattr(right.start.adapter, part), rtol=tolerance, atol=tolerance
            )
        torch.testing.assert_close(left.gradient, right.gradient, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", ENCODERS + DECODERS)
def test_a_block_of_unlike_clients_in_float64(kind):
    """Mixed ranks, masks, sides, penalties, merged updates, amounts and sizes in one pass, after 20 steps of AdamW."""
    base = base_of(kind)
    spec = base.spec(3, 2.0, head="shared")
    settings = TrainSettings(steps=STEPS, batch_size=4, lr=1e-3, lr_b_ratio=5.0, weight_decay=0.1)
    padded, packed = trainers(base, spec, settings, uneven(), tokens_a_pass=10**6)
    starts = [begun(spec, base, seed, rank) for seed, rank in ((1, 3), (2, 1), (3, 2), (4, 3))]
    draw = torch.Generator().manual_seed(9)
    merged = {
        m: LowRank(torch.randn(2, i, generator=draw).double() / 9, torch.randn(o, 2, generator=draw).double() / 9)
        for m, (o, i) in base.shapes.items()
    }
    chosen = dict.fromkeys(base.shapes, torch.tensor([True, False, True]))
    fits = [
        Fit(starts[0], OUTPUT, mask=chosen, measure="gradient"),
        Fit(starts[1], BOTH, penalties=(Proximal(0.3, INPUT),)),
        Fit(replace(starts[2], merged=merged), INPUT, duration=Duration(epochs=2)),
        Fit(starts[3], BOTH, penalties=(Tail(0.2, 2),), probe=True),
    ]
    jobs = [FitJob(f"c{k}", 2, fit) for k, fit in enumerate(fits)]
    one, other = padded.fit(jobs), packed.fit(jobs)
    # RMS norms compute in float32 whatever the model's type, and so tell apart what differs in float64's last bits
    agree(one, other, 1e-6 if kind in {"llama", "qwen2", "mistral"} else 1e-9)
    still = [starts[0].adapter.output[m][:, 1].equal(t[:, 1]) for m, t in other[0].start.adapter.output.items()]
    assert all(still)
    scores = [t.score([ScoreJob(f"c{k}", own.start) for k, own in enumerate(one)]) for t in (padded, packed)]
    for left, right in zip(*scores, strict=True):
        assert (left.examples, left.sums["correct"]) == (right.examples, right.sums["correct"])
        assert left.sums["loss"] == pytest.approx(right.sums["loss"], rel=1e-6 if kind in DECODERS else 1e-9)


@pytest.mark.parametrize("adapter_kind", ["vera", "dense"])
def test_other_kinds_in_float64(adapter_kind):
    base = base_of("bert")
    if adapter_kind == "vera":
        pair = vera_projection(base.shapes, 4, 7)
        spec = base.spec(4, 2.0, "vera", head="shared", projection=LowRank(pair.A.double(), pair.B.double()))
    else:
        spec = base.spec(1, 1.0, "dense", head="shared")
    padded, packed = trainers(base, spec, TrainSettings(steps=5, batch_size=4, lr=1e-3), uneven())
    start = Start(wide(fresh_adapter(spec, spec.rank, 1).with_dense(base.head)))
    jobs = [FitJob(f"c{k}", 1, Fit(start, BOTH)) for k in range(4)]
    agree(padded.fit(jobs), packed.fit(jobs), 1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_losses_in_less_precision(dtype):
    base = base_of("bert", dtype)
    spec = base.spec(3, 2.0, head="shared")
    padded, packed = trainers(base, spec, TrainSettings(steps=8, batch_size=4, lr=1e-3), uneven())
    start = Start(fresh_adapter(spec, 3, 1).with_dense({name: own.float() for name, own in base.head.items()}))
    jobs = [FitJob(f"c{k}", 1, Fit(start, BOTH)) for k in range(4)]
    for left, right in zip(padded.fit(jobs), packed.fit(jobs), strict=True):
        assert left.loss == pytest.approx(right.loss, rel=1e-4 if dtype == torch.float32 else 3e-2)


@pytest.mark.parametrize("number", [1e38, torch.inf])
def test_a_client_whose_loss_is_lost_harms_nobody(number):
    """One client starts from numbers that overflow, or are none; the others' answers are those without it."""
    base = base_of("bert", torch.float32)
    spec = base.spec(3, 2.0, head="frozen")
    _, packed = trainers(base, spec, TrainSettings(steps=3, batch_size=4, lr=1e-3), uneven(), tokens_a_pass=10**6)
    start = Start(fresh_adapter(spec, 3, 1))
    mad = replace(
        start, adapter=start.adapter.with_side("output", {m: t + number for m, t in start.adapter.output.items()})
    )
    answers = packed.fit([FitJob(f"c{k}", 1, Fit(mad if k == 1 else start, BOTH)) for k in range(4)])
    assert isinstance(answers[1], Failure)
    assert answers[1].kind == "diverged"
    alone = packed.fit([FitJob(f"c{k}", 1, Fit(start, BOTH)) for k in (0, 2, 3)])
    agree([answers[0], answers[2], answers[3]], alone, 1e-4)


def test_a_pack_holds_every_token_once():
    tokens = some_tokens(12)
    batches = [numpy.array([3, 1]), numpy.array([7]), numpy.array([0, 11, 5])]
    packed = pack(tokens, batches, "cpu")
    lengths = [length for _, count, length in packed.groups for _ in range(count)]
    assert lengths == sorted(lengths)
    assert sum(lengths) == packed.ids.shape[1] == sum(len(tokens[e]) for own in batches for e in own)
    for number, own in enumerate(batches):
        for row, example in zip(packed.rows[number].tolist(), own, strict=True):
            first, count = int(packed.firsts[row]), len(tokens[example])
            assert packed.ids[0, first : first + count].tolist() == tokens[example].tolist()
            assert packed.positions[0, first : first + count].tolist() == list(range(count))
            assert packed.member[first : first + count].tolist() == [number] * count


def test_a_window_shorter_than_the_text():
    """ModernBERT's local layers look 64 tokens to both sides; here 2, on texts of up to 11."""
    import transformers

    config = transformers.ModernBertConfig(
        vocab_size=60, num_labels=3, pad_token_id=0, hidden_size=32, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=40, local_attention=4, global_attn_every_n_layers=3,
        bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    assert packed_encoder(model, 0)
    usual = attention._band
    try:  # the planted fault: a window that is not applied is seen
        attention._band = lambda length, window, device: None
        assert not packed_encoder(model, 0)
    finally:
        attention._band = usual


def test_deberta_is_padded_and_said():
    """Its attention is its own: it takes no function by name."""
    base = base_of("deberta-v2", torch.float32)
    spec = base.spec(3, 2.0, head="shared")
    with pytest.warns(PaddedInstead, match="deberta-v2 cannot be packed: clients are trained one by one"):
        padded, packed = trainers(base, spec, TrainSettings(batch_size=4, lr=1e-3), owned_by(40, 2))
    jobs = [FitJob(f"c{k}", 1, Fit(Start(fresh_adapter(spec, 3, 1).with_dense(base.head)), BOTH)) for k in range(2)]
    agree(padded.fit(jobs), packed.fit(jobs), 0.0)


def test_a_model_that_does_not_pack_is_padded_and_said(monkeypatch):
    base = base_of("bert", torch.float32)
    spec = base.spec(3, 2.0, head="shared")
    monkeypatch.setattr(packing, "_first_position", lambda model: 3)  # other positions: other scores
    settings = TrainSettings(batch_size=4, lr=1e-3)
    with pytest.warns(PaddedInstead, match="bert cannot be packed: clients are trained one by one"):
        padded, packed = trainers(base, spec, settings, owned_by(40, 3))
    jobs = [FitJob(f"c{k}", 1, Fit(Start(fresh_adapter(spec, 3, 1).with_dense(base.head)), BOTH)) for k in range(3)]
    agree(padded.fit(jobs), packed.fit(jobs), 0.0)


def test_a_model_computes_on_padded_batches_as_before(tmp_path):
    """And its saved config names no attention of ours."""
    base = base_of("bert", torch.float32)
    spec = base.spec(3, 2.0, head="shared")
    ids, mask = torch.tensor([[5, 6, 7], [8, 9, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    before = base.model(input_ids=ids, attention_mask=mask).logits
    _, packed = trainers(base, spec, TrainSettings(batch_size=4, lr=1e-2), owned_by(40, 3))
    start = Start(fresh_adapter(spec, 3, 1).with_dense(base.head))
    packed.fit([FitJob("c0", 1, Fit(start, BOTH))])
    packed.score([ScoreJob("c0", start)])
    assert base.model(input_ids=ids, attention_mask=mask).logits.equal(before)
    write_model(tmp_path, start, spec, base, base.head)
    assert attention.ATTENTION not in (tmp_path / "config.json").read_text()


def test_threads_share_one_base():
    """Three threads at once, many times: the bits of one after the other."""
    base = base_of("bert", torch.float32)
    spec = base.spec(3, 2.0, head="shared")
    settings = TrainSettings(steps=6, batch_size=4, lr=1e-2)
    _, packed = trainers(base, spec, settings, owned_by(40, 12))
    start = Start(fresh_adapter(spec, 3, 1).with_dense(base.head))
    jobs = [[FitJob(f"c{k}", 1, Fit(start, BOTH))] for k in range(12)]

    def work(job):
        (fitted,) = packed.fit(job)
        return fitted, packed.score([ScoreJob(job[0].client, fitted.start)])

    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as one:
        expected = list(one.map(work, jobs))
    with ThreadPoolExecutor(3, initializer=torch.set_num_threads, initargs=(1,)) as three:
        found = list(three.map(work, jobs))
    for (left, left_score), (right, right_score) in zip(expected, found, strict=True):
        agree([left], [right], 0.0)
        assert left_score == right_score


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_lora_a2_chooses_the_same_slots(kind):
    """Whole rounds, B and A: probe, choice, training; in float64 the choices are equal, and the uploads but for the wire's float32."""
    base = base_of(kind)
    spec = base.spec(2, 2.0, head="shared")
    settings = TrainSettings(epochs=2, batch_size=4, lr=1e-3, lr_b_ratio=5.0)
    both = trainers(base, spec, settings, uneven(), tokens_a_pass=10**6)
    method = LoRAA2()
    members = [Client(f"c{k}", examples, rank) for k, (examples, rank) in enumerate([(3, 2), (9, 1), (1, 2), (27, 1)])]
    for round in (1, 2):
        state = method.init(spec, 5)
        if round == 2:  # B is no longer zero
            state = State(begun(spec, base, 5, 16).adapter.with_dense({}))
        payloads = [join_head(method.dispatch(state, client, round), base.head) for client in members]
        orders = [Order("train", round, own, payload) for own, payload in zip(members, payloads, strict=True)]
        one, other = ([own.answer for own in serve(orders, {}, Pipeline(method), trainer)] for trainer in both)
        for left, right in zip(one, other, strict=True):
            assert left.notes["slots"] == right.notes["slots"]
            assert sum(map(len, left.notes["slots"].values())) == len(base.shapes) * members[int(left.client[1])].rank
            close(left.payload, right.payload)


def close(one, other):
    """Two payloads alike, tensor by tensor."""
    for left, right in zip(walk_tensors(one), walk_tensors(other), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-7)
