"""Tokens client by client, factors by grouped products: what the way by masked slots gives, and what padded batches give."""

import itertools
from dataclasses import replace

import numpy
import pytest
import torch
from tiny_models import DECODERS, ENCODERS, LABELS, some_tokens, tiny_model, tokenizer

from fedlora.core.adapter import Start, fresh_adapter
from fedlora.core.lowrank import LowRank
from fedlora.training.bases.model import make_base
from fedlora.training.forward import attention, client_order, grouped, heads, packed, varlen
from fedlora.training.forward.client_order import one_of_a_few, pack_by_client
from fedlora.training.forward.packed import fastest_forward
from fedlora.training.forward.packing import pack
from fedlora.training.forward.padded import PaddedForward

TOKENS = some_tokens(20)
BATCHES = [numpy.array([3, 1, 4]), numpy.array([], dtype=int), numpy.array([7]), numpy.array([0, 11, 5, 9])]
NEVER, ALWAYS = float("inf"), 0.0


def base_of(kind, dtype=torch.float32):
    return make_base(tiny_model(kind).to(dtype), tokenizer(), kind, LABELS)


def clients(base, spec, dtype, merged=False):
    """Four models of ranks 3, 1, 2 and 3, whose factors are leaves."""
    starts = []
    for seed, rank in enumerate((3, 1, 2, 3)):
        draw = torch.Generator().manual_seed(seed)
        adapter = fresh_adapter(spec, rank, seed).with_dense(base.head)
        moved = {m: torch.randn(t.shape, generator=draw) / 10 for m, t in adapter.output.items()}
        sides = [{m: t.to(dtype).requires_grad_() for m, t in side.items()} for side in (adapter.input, moved)]
        dense = {name: part.to(dtype).clone().requires_grad_() for name, part in adapter.dense.items()}
        more = {
            m: LowRank(
                torch.randn(seed + 1, i, generator=draw).to(dtype),
                torch.randn(o, seed + 1, generator=draw).to(dtype) / 9,
            )
            for m, (o, i) in base.shapes.items()
        }
        starts.append(Start(replace(adapter, input=sides[0], output=sides[1], dense=dense), more if merged else {}))
    return starts


def scores_and_slopes(forward, starts):
    """The logits of all models with examples, and the gradients of their squares' sum."""
    logits = {number: made.logits() for number, made in forward.outputs(TOKENS, starts, BATCHES)}
    adapters = [starts[number].adapter for number in logits]
    leaves = [leaf for one in adapters for part in (one.input, one.output, one.dense) for leaf in part.values()]
    slopes = torch.autograd.grad(sum((one.double() ** 2).sum() for one in logits.values()), leaves)
    return list(logits), [*logits.values(), *slopes]


def agree(left, right, tolerance):
    assert left[0] == right[0] == [0, 2, 3]
    for one, other in zip(left[1], right[1], strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", ENCODERS + DECODERS)
@pytest.mark.parametrize("size", [client_order.as_it_is, one_of_a_few])
def test_grouped_masked_and_padded_agree_in_float64(kind, size):
    """Mixed ranks, one client without examples, merged updates of other ranks, every architecture."""
    base = base_of(kind, torch.float64)
    spec = base.spec(3, 2.0, head="shared")
    forward = fastest_forward(base, spec)
    starts = clients(base, spec, torch.float64, merged=True)
    found = scores_and_slopes(replace(forward, masked_share=ALWAYS, size=size), starts)
    # some norms compute in float32 whatever the model's type
    tolerance = 1e-6 if kind in {"llama", "qwen2", "mistral"} else 1e-10
    agree(found, scores_and_slopes(replace(forward, masked_share=NEVER), starts), tolerance)
    agree(found, scores_and_slopes(PaddedForward(base, spec), starts), tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
def test_torchs_grouped_product_gives_what_masked_slots_give(dtype, tolerance):
    """In the types that it takes; the factors are of the base's type, as on a GPU."""
    if not grouped._works("cpu", dtype):
        pytest.skip("this torch has no grouped product on a CPU")
    base = base_of("bert", dtype)
    spec = base.spec(3, 2.0, head="shared")
    forward, starts = fastest_forward(base, spec), clients(base, spec, dtype)
    found = scores_and_slopes(replace(forward, masked_share=ALWAYS), starts)
    agree(found, scores_and_slopes(replace(forward, masked_share=NEVER), starts), tolerance)


def test_torchs_grouped_product_is_what_computes(monkeypatch):
    """Two for every map each time that it runs; where it does not take the numbers, one product for each client."""
    base = base_of("bert")
    spec, calls = base.spec(3, 2.0, head="shared"), []
    forward, starts = replace(fastest_forward(base, spec), masked_share=ALWAYS), clients(base, spec, torch.float32)
    usual = grouped._grouped_mm()
    assert usual is not None

    def counted(x, factors, *, offs):
        calls.append(offs.tolist())
        return usual(x, factors, offs=offs)

    monkeypatch.setattr(grouped, "_grouped_mm", lambda: counted)
    expected = scores_and_slopes(forward, starts)
    lengths = TOKENS.lengths
    ends = numpy.cumsum([lengths[batch].sum() for batch in BATCHES if len(batch)]).tolist()
    sequences = numpy.cumsum([len(batch) for batch in BATCHES if len(batch)]).tolist()
    # six maps of the first layer; key and value of the last one, and then all its maps for the read tokens
    assert [own for own in calls if own != [7, 24]] == [ends] * (2 * 8) + [sequences] * (2 * 6)
    monkeypatch.setattr(grouped, "_works", lambda device, dtype: False)
    agree(expected, scores_and_slopes(forward, starts), 1e-5)


def test_a_shift_of_one_token_between_clients_is_seen(monkeypatch):
    """The planted fault: the first client's last token meets the second one's factors."""
    base = base_of("bert")
    spec = base.spec(3, 2.0, head="shared")
    forward, starts = fastest_forward(base, spec), clients(base, spec, torch.float32)
    expected = scores_and_slopes(replace(forward, masked_share=NEVER), starts)
    usual = grouped._ends

    def shifted(order, rows):
        ends = usual(order, rows).clone()
        ends[0] -= 1
        return ends

    monkeypatch.setattr(grouped, "_ends", shifted)
    found = scores_and_slopes(replace(forward, masked_share=ALWAYS), starts)
    with pytest.raises(AssertionError):
        agree(found, expected, 1e-4)


def test_what_padding_holds_changes_no_bit():
    """Neither the scores nor the gradients depend on which tokens a pack is padded with."""
    base = base_of("roberta")
    spec = base.spec(3, 2.0, head="shared")
    starts = clients(base, spec, torch.float32)
    forward = replace(fastest_forward(base, spec), masked_share=ALWAYS, size=lambda tokens: tokens + 37)
    found = scores_and_slopes(forward, starts)
    before = packed.pack_by_client

    def other_tokens(*args):
        made = before(*args)
        made.ids[made.member[None] == 3] = 17
        return made

    packed.pack_by_client = other_tokens
    try:
        again = scores_and_slopes(forward, starts)
    finally:
        packed.pack_by_client = before
    agree(found, again, 0.0)


def test_many_clients_are_grouped_and_few_are_not(monkeypatch):
    """A third of the base's products for four clients of rank 3 on maps as small as these; a sixth is the limit."""
    base = base_of("bert")
    spec, calls = base.spec(3, 2.0, head="shared"), []
    forward, starts = fastest_forward(base, spec), clients(base, spec, torch.float32)
    before = packed.pack_by_client
    monkeypatch.setattr(packed, "pack_by_client", lambda *args: calls.append(1) or before(*args))
    list(forward.outputs(TOKENS, starts, BATCHES))
    assert calls == [1]
    list(forward.outputs(TOKENS, starts[:1], BATCHES[:1]))
    list(replace(forward, masked_share=2.0).outputs(TOKENS, starts, BATCHES))
    assert calls == [1]


def test_the_share_counts_the_slots_of_all_clients():
    pair = LowRank(torch.zeros(8, 384), torch.zeros(384, 8))
    shapes = {"one": (384, 384)}
    assert grouped.masked_share([{"one": [pair]}] * 4, shapes) == pytest.approx(1 / 6)
    assert grouped.masked_share([{"one": [pair, pair]}] * 4, shapes) == pytest.approx(1 / 3)


def test_a_pack_by_client_holds_what_a_pack_by_length_holds():
    chosen = [batch for batch in BATCHES if len(batch)]
    by_length, by_client = pack(TOKENS, chosen, "cpu"), pack_by_client(TOKENS, chosen, "cpu", one_of_a_few)
    order, real = by_client.order, by_length.ids.shape[1]
    assert by_client.member.tolist() == sorted(by_client.member.tolist())
    assert by_client.ids.shape[1] == one_of_a_few(real) == int(order.token_ends[-1]) == int(order.sequence_starts[-1])
    assert by_client.ids[0, order.to_length][:real].equal(by_length.ids[0])
    assert by_client.positions[0, order.to_length][:real].equal(by_length.positions[0])
    assert order.to_length[order.from_length].equal(torch.arange(one_of_a_few(real)))
    for number, batch in enumerate(chosen):
        for row, example in zip(by_client.rows[number].tolist(), batch, strict=True):
            first, last = int(by_client.firsts[row]), int(by_client.lasts[row])
            assert by_client.ids[0, first : last + 1].tolist() == TOKENS[example].tolist()
            assert first in order.sequence_starts.tolist()
    assert order.token_ends.tolist()[:3] == numpy.cumsum([TOKENS.lengths[batch].sum() for batch in chosen]).tolist()
    assert order.sequence_ends.tolist()[:3] == [3, 4, 8]


def by_its_manual(query, key, value, starts_q, starts, longest_q, longest, *, scale, window_size, enable_gqa=False):
    """What torch's documentation says that the kernel gives: (left, right) tokens besides itself, -1 for all; the last
    query of a sequence stands at its last key."""
    assert starts_q.dtype == starts.dtype == torch.int32
    assert starts_q[-1] == len(query)
    parts = []
    for (first_q, last_q), (first, last) in zip(
        itertools.pairwise(starts_q.tolist()), itertools.pairwise(starts.tolist()), strict=True
    ):
        assert last_q - first_q <= longest_q
        assert last - first <= longest
        q = query[first_q:last_q].transpose(0, 1)
        k, v = (tensor[first:last].transpose(0, 1) for tensor in (key, value))
        if enable_gqa:
            k, v = (tensor.repeat_interleave(q.shape[0] // k.shape[0], dim=0) for tensor in (k, v))
        behind = torch.arange(last - first)[q.shape[1] * -1 :, None] - torch.arange(last - first)[None]
        left, right = (reach if reach >= 0 else longest for reach in window_size)
        products = (q @ k.transpose(1, 2)) * (scale or q.shape[-1] ** -0.5)
        unseen = (behind > left) | (-behind > right)
        parts.append((products.masked_fill(unseen, float("-inf")).softmax(-1) @ v).transpose(0, 1))
    return torch.cat(parts)


@pytest.mark.parametrize("kind", ["bert", "modernbert", "llama", "gpt2", "mistral"])
@pytest.mark.parametrize(
    "takes", [{"window_size", "scale", "enable_gqa"}, {"window_size", "scale"}], ids=["2.12", "2.11"]
)
def test_the_kernel_for_any_length_is_asked_for_the_same_attention(kind, takes, monkeypatch):
    """With the kernel's manual in its place: windows, causal layers, several queries a key, of two versions of torch."""
    base = base_of(kind, torch.float64)
    spec, calls = base.spec(3, 2.0, head="shared"), []
    forward, starts = fastest_forward(base, spec), clients(base, spec, torch.float64)
    expected = scores_and_slopes(replace(forward, masked_share=NEVER), starts)

    def kernel(*args, **options):
        assert set(options) <= takes
        calls.append(options)
        return by_its_manual(*args, **options)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    monkeypatch.setattr(varlen, "_parameters", lambda: frozenset(takes))
    monkeypatch.setattr(attention, "is_usable", lambda q, *how: varlen.gives(*how))
    agree(scores_and_slopes(replace(forward, masked_share=ALWAYS), starts), expected, 1e-10)
    # Of ModernBERT's last layer, a local one, only the first token is asked, which the kernel would take for the last.
    assert len(calls) == base.model.config.num_hidden_layers - (kind == "modernbert")


def test_a_cpu_does_without_the_kernel():
    assert not varlen.is_usable(torch.ones(3, 2, 16, dtype=torch.bfloat16), False, None)
    assert not varlen.is_usable(torch.ones(3, 2, 16), False, None)


def test_there_are_eight_sizes_between_a_number_and_its_double():
    sizes = [one_of_a_few(tokens) for tokens in range(1, 20_001)]
    assert all(tokens <= size <= max(tokens * 9 / 8, 8) for tokens, size in enumerate(sizes, 1))
    assert len({size for size in sizes if 8_192 < size <= 16_384}) == 8
    assert [one_of_a_few(size) for size in sizes] == sizes


@pytest.mark.parametrize("kind", ENCODERS + DECODERS)
def test_heads_together_are_heads_alone(kind):
    base = base_of(kind, torch.float64)
    encoder = packed.packed_encoder(base.model, base.padding)
    assert heads.can_be_together(encoder, base)
    draw = torch.Generator().manual_seed(4)
    hidden = [torch.randn(count, 32, generator=draw).double() for count in (2, 5, 1)]
    values = [
        {name: part + 0.1 * torch.randn(part.shape, generator=draw) for name, part in base.head.items()} for _ in hidden
    ]
    together = heads.logits_together(encoder, hidden, values)
    for found, some, head in zip(together, hidden, values, strict=True):
        torch.testing.assert_close(found, encoder.logits(some, head), rtol=1e-10, atol=1e-10)


def test_a_head_that_mixes_its_examples_is_called_alone(monkeypatch):
    """What is tried at the start finds out, so that nobody's scores depend on other clients."""
    base = base_of("bert", torch.float64)
    encoder = packed.packed_encoder(base.model, base.padding)
    usual = type(encoder).logits
    monkeypatch.setattr(type(encoder), "logits", lambda self, some, head: usual(self, some - some.mean(0), head))
    assert not heads.can_be_together(encoder, base)
    monkeypatch.setattr(type(encoder), "logits", lambda self, some, head: usual(self, some, head).item())
    assert not heads.can_be_together(encoder, base)
