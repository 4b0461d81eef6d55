"""The last layer for the tokens that the head reads alone: the numbers of the whole layer, and which models have it."""

import math
from dataclasses import replace

import numpy
import pytest
import torch
from tiny_models import DECODERS, ENCODERS, LABELS, some_tokens, tiny_model, tokenizer
from torch.utils.flop_counter import FlopCounterMode

from fedlora.core.adapter import Adapter, Start
from fedlora.training.bases.model import make_base
from fedlora.training.forward import attention
from fedlora.training.forward.current_pass import Pass
from fedlora.training.forward.packed import PackedForward, fastest_forward
from fedlora.training.forward.packing import pack
from fedlora.training.forward.padded import PaddedForward
from fedlora.training.forward.trial import packed_encoder

FORMS = {
    "bert": "read",
    "roberta": "read",
    "distilbert": "read",
    "albert": "whole",  # its layers share one module, which is the last one and the first
    "electra": "read",
    "modernbert": "read",
    "gpt2": "placed",  # it gives its output the shape of its input
    "llama": "read",
    "qwen2": "read",
    "mistral": "read",
}
BATCHES = [numpy.array([3, 1, 12]), numpy.array([7]), numpy.array([0, 11, 5, 2])]


def base_of(kind, dtype=torch.float64):
    return make_base(tiny_model(kind).to(dtype), tokenizer(), kind, LABELS)


def starts_of(base):
    """Three clients with ranks 2, 1 and 3; every tensor is a leaf that wants a gradient."""
    draw = torch.Generator().manual_seed(0)

    def leaf(*shape):
        return (torch.randn(shape, generator=draw).double() / shape[-1] ** 0.5).requires_grad_()

    return [
        Start(
            Adapter(
                {m: leaf(rank, d_in) for m, (_, d_in) in base.shapes.items()},
                {m: leaf(d_out, rank) for m, (d_out, _) in base.shapes.items()},
                {name: (part.double() + 0.01).requires_grad_() for name, part in base.head.items()},
            )
        )
        for rank in (2, 1, 3)
    ]


def logits_and_gradients(forward, starts):
    """Logits of every client and the gradient of a sum in which no two logits weigh the same."""
    found = [made.logits() for _, made in forward.outputs(some_tokens(), starts, BATCHES)]
    leaves = [t for s in starts for part in (s.adapter.input, s.adapter.output, s.adapter.dense) for t in part.values()]
    every = torch.cat([logits.flatten() for logits in found])
    weights = torch.linspace(0.5, 1.5, len(every), dtype=every.dtype)
    return found, torch.autograd.grad((every * weights).sum(), leaves)


def near(one, other, kind):
    """As near as float64 is, or, where the norms compute in float32 whatever the model's type, as that."""
    rtol, atol = (1e-5, 1e-7) if kind in {"llama", "qwen2", "mistral"} else (1e-9, 1e-11)
    for left, right in zip(one, other, strict=True):
        torch.testing.assert_close(left, right, rtol=rtol, atol=atol)


def test_every_small_model_is_here():
    assert set(FORMS) == {*ENCODERS, *DECODERS}


@pytest.mark.parametrize(("kind", "form"), FORMS.items())
def test_which_models_have_it(kind, form):
    assert packed_encoder(tiny_model(kind), 0).last_layer == form


@pytest.mark.parametrize("kind", FORMS)
def test_logits_and_gradients_are_the_padded_ones_in_float64(kind):
    """Of several clients in one pack, with the last layer's short form and with the whole layer."""
    base = base_of(kind)
    spec, starts = base.spec(3, 2.0, head="shared"), starts_of(base)
    expected = logits_and_gradients(PaddedForward(base, spec), starts)
    packed = fastest_forward(base, spec)
    assert packed.encoder.last_layer == FORMS[kind]
    masked, grouped = (replace(packed, masked_share=share) for share in (math.inf, 0.0))
    for forward in (masked, grouped, replace(masked, encoder=packed.encoder.whole)):
        found = logits_and_gradients(forward, starts)
        near(found[0], expected[0], kind)
        near(found[1], expected[1], kind)


@pytest.mark.parametrize("kind", [kind for kind, form in FORMS.items() if form != "whole"])
def test_behind_the_attention_it_computes_one_token_a_sequence(kind):
    base = base_of(kind)
    spec, starts = base.spec(3, 2.0, head="shared"), starts_of(base)
    packed = fastest_forward(base, spec)
    last = base.model.get_submodule(list(base.shapes)[-1])  # a map behind the attention
    seen = []
    hook = last.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[-2]))
    list(packed.outputs(some_tokens(), starts, BATCHES))
    list(replace(packed, encoder=packed.encoder.whole).outputs(some_tokens(), starts, BATCHES))
    hook.remove()
    examples = numpy.concatenate(BATCHES)
    assert seen == [len(examples), some_tokens().lengths[examples].sum()]


@pytest.mark.parametrize(
    ("kind", "query"),
    [("bert", "query"), ("distilbert", "q_lin"), ("llama", "q_proj"), ("qwen2", "q_proj"), ("gpt2", None)],
)
def test_queries_that_nobody_asks_for_are_not_made(kind, query):
    """GPT-2 and ModernBERT make queries, keys and values in one map."""
    base = base_of(kind)
    packed = fastest_forward(base, base.spec(3, 2.0))
    names = {module: name for name, module in base.model.named_modules()}
    before_attention = [name for name in map(names.get, packed.encoder.idle) if name.endswith((str(query), "c_attn"))]
    assert len(before_attention) == (query is not None)
    others = [name for name in base.shapes if names[packed.encoder._layers._layers[-1]] in name]
    assert not [name for name in map(names.get, packed.encoder.idle) if name.endswith(("key", "k_proj", "v_lin"))]
    assert set(map(names.get, packed.encoder.idle)) <= set(others)


def test_the_arithmetic_of_the_last_layer():
    """Of a BERT layer's twelve units, d^2 multiplications a token, keys' and values' two are left of all tokens."""
    base = base_of("bert")
    tokens, encoder = some_tokens(), packed_encoder(base.model, base.padding)
    packed, flop = pack(tokens, BATCHES, "cpu"), []
    for form in (encoder.whole, encoder):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            form.hidden(packed, {})
        flop.append(counter.get_flop_counts()["Global"][torch.ops.aten.addmm])
    count, sequences = packed.ids.shape[1], len(packed.firsts)
    units, keys_and_values = 4 * 32 * 32 + 2 * 32 * 48, 2 * 32 * 32
    assert flop[0] - flop[1] == 2 * (units * count - keys_and_values * count - units * sequences)


@pytest.mark.parametrize("reads", ["first", "last"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 3])
def test_the_row_that_a_read_token_sees(reads, causal, window):
    """By hand: from its own place back and forth as far as the window goes, and no further than itself if causal."""
    length, place = 5, {"first": 0, "last": 4}[reads]
    mask = None if window is None else attention._band(length, window, "cpu")
    mask = mask.tril() if mask is not None and causal else mask
    row = attention._row(mask, reads, length, causal, torch.device("cpu"))
    seen = [abs(other - place) < (window or length) and (other <= place or not causal) for other in range(length)]
    assert (row is None and all(seen)) or row.tolist() == [seen]


def test_a_wrong_row_is_seen_and_the_layer_runs_whole(monkeypatch):
    """The planted fault: the window is left out where one token is asked."""
    monkeypatch.setattr(attention, "_row", lambda *_: None)
    assert packed_encoder(tiny_model("mistral"), 0).last_layer == "whole"
    assert packed_encoder(tiny_model("llama"), 0).last_layer == "read"  # it has no window


def test_a_token_that_gets_another_clients_adapter_is_seen(monkeypatch):
    """The planted fault: the read tokens are taken for the first ones of the pack."""
    base = base_of("bert")
    spec, starts = base.spec(3, 2.0, head="shared"), starts_of(base)
    expected, _ = logits_and_gradients(PaddedForward(base, spec), starts)
    rows = Pass.rows.fget
    monkeypatch.setattr(Pass, "rows", property(lambda now: None if rows(now) is None else torch.arange(len(rows(now)))))
    found, _ = logits_and_gradients(replace(fastest_forward(base, spec), masked_share=math.inf), starts)
    assert max(float((left - right).detach().abs().max()) for left, right in zip(found, expected, strict=True)) > 1e-3


def test_with_dropout_the_layer_runs_whole():
    """A map that makes queries and keys alike would draw twice."""
    base = base_of("gpt2")
    spec, starts = base.spec(3, 2.0, head="shared"), starts_of(base)[:1]
    packed = fastest_forward(base, spec)
    whole = PackedForward(base, spec, packed.encoder.whole)
    drawn = []
    for forward in (packed, whole):
        torch.manual_seed(0)
        drawn += [made.logits() for _, made in forward.outputs(some_tokens(), starts, BATCHES[:1], 0.5)]
    assert drawn[0].equal(drawn[1])
