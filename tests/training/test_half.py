"""Bases in bfloat16: what computes in float32 all the same, and what that is good for."""

from pathlib import Path

import numpy
import pytest
import torch
from tiny_models import DECODERS, ENCODERS, owned_by, some_tokens, tiny_model, tokenizer
from torch.nn import functional

from fedlora.core.adapter import BOTH, Start, fresh_adapter
from fedlora.core.rounds import Fit, FitJob
from fedlora.training import client_fit
from fedlora.training.bases.maps import addition
from fedlora.training.bases.model import make_base
from fedlora.training.bases.precision import raise_norms
from fedlora.training.bases.probe import measured, shapes_of
from fedlora.training.forward import attention
from fedlora.training.forward.current_pass import Pass, running
from fedlora.training.forward.packed import fastest_forward
from fedlora.training.loop import ModelTrainer
from fedlora.training.settings import TrainSettings
from fedlora.training.tasks.classification import Classification

LABELS = ("no", "yes", "perhaps")
HALF = 2.0**-8
"""The largest relative error of a number that is rounded to bfloat16."""
GROUPS = ((0, 2, 3), (6, 3, 5), (21, 1, 9))
"""Two sequences of three tokens, three of five, one of nine."""


class Layer(torch.nn.Module):
    is_causal = False


def attended(query, key, value, **named):
    with running(Pass(groups=GROUPS)):
        (found, _) = attention._attention(Layer(), query, key, value, None, **named)
    return found


def one_by_one(query, key, value):
    """Every sequence alone in a padded row of float64, where padding is masked out."""
    parts = []
    for first, count, length in GROUPS:
        for number in range(count):
            rows = slice(first + number * length, first + (number + 1) * length)
            q, k, v = (functional.pad(t[:, :, rows].double(), (0, 0, 0, 9 - length)) for t in (query, key, value))
            mask = (torch.arange(9) < length)[None, None, None]
            parts.append(functional.scaled_dot_product_attention(q, k, v, mask)[:, :, :length])
    return torch.cat(parts, dim=2).transpose(1, 2)


def heads(seed=0):
    draw = torch.Generator().manual_seed(seed)
    return [3 * torch.randn(1, 4, 30, 8, generator=draw).bfloat16() for _ in range(3)]


def test_packed_attention_in_bfloat16_is_the_padded_one_in_float64_but_for_the_last_rounding():
    query, key, value = (t.requires_grad_() for t in heads())
    found = attended(query, key, value)
    assert found.dtype == torch.bfloat16
    expected = one_by_one(query, key, value)
    assert (found.double() - expected).abs().le(1.01 * HALF * expected.abs() + 1e-6).all()
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    got = torch.autograd.grad((found * weights).float().sum(), (query, key, value))
    wide = [t.detach().double().requires_grad_() for t in (query, key, value)]
    right = torch.autograd.grad((one_by_one(*wide) * weights).sum(), wide)
    for one, other in zip(got, right, strict=True):
        assert float((one.double() - other).norm() / other.norm()) < HALF


def test_attention_that_computes_in_bfloat16_is_seen(monkeypatch):
    """The planted fault: the error is several times that of one rounding."""
    monkeypatch.setattr(attention, "_computed", lambda tensor: tensor)
    query, key, value = heads()
    expected = one_by_one(query, key, value)
    assert not (attended(query, key, value).double() - expected).abs().le(1.01 * HALF * expected.abs() + 1e-6).all()


def half_base(kind="bert"):
    base = make_base(tiny_model(kind).bfloat16(), tokenizer(), kind, LABELS)
    raise_norms(base.model)
    return base


def trainer(base, settings, clients=2):
    tokens = some_tokens(40)
    named = {"train": tokens, "test": tokens, "owned": owned_by(40, clients), "seed": 0, "rounds": 4}
    spec = base.spec(3, 2.0, head="shared")
    return ModelTrainer(fastest_forward(base, spec), Classification(LABELS), settings, **named)


def jobs(trainer, clients=2):
    start = Start(fresh_adapter(trainer.spec, 3, 1).with_dense(trainer.head))
    return [FitJob(f"c{k}", 1, Fit(start, BOTH)) for k in range(clients)]


def test_a_run_in_bfloat16_ends_at_the_loss_of_one_in_float32():
    settings = TrainSettings(epochs=10, batch_size=4, lr=5e-3)
    single = make_base(tiny_model("bert"), tokenizer(), "bert", LABELS)
    one, other = (trainer(base, settings) for base in (single, half_base()))
    for left, right in zip(one.fit(jobs(one)), other.fit(jobs(other)), strict=True):
        assert right.loss == pytest.approx(left.loss, rel=1e-2)
        assert left.loss < 1.0  # it has learnt something that could have gone astray


def test_what_trains_is_in_float32(monkeypatch):
    """Adapters, heads, gradients and the optimiser's moments, with a base in bfloat16."""
    seen = []
    usual = client_fit._optimizer

    def watched(*args):
        seen.append(usual(*args))
        return seen[-1]

    monkeypatch.setattr(client_fit, "_optimizer", watched)
    own = trainer(half_base(), TrainSettings(steps=2, batch_size=4, lr=1e-2))
    (fitted, _) = own.fit(jobs(own))
    for optimizer in seen:
        vectors = [vector for group in optimizer.param_groups for vector in group["params"]]
        moments = [moment for state in optimizer.state.values() for moment in state.values()]
        held = [*vectors, *(vector.grad for vector in vectors), *moments]
        assert {tensor.dtype for tensor in held} == {torch.float32}
    adapter = fitted.start.adapter
    tensors = [*adapter.input.values(), *adapter.output.values(), *adapter.dense.values()]
    assert {tensor.dtype for tensor in tensors} == {torch.float32}


@pytest.mark.parametrize("kind", ENCODERS + DECODERS)
def test_scores_of_a_bfloat16_base_do_not_come_in_its_steps(kind):
    """Its head computes in float32, packed and padded: few logits are numbers of bfloat16."""
    base = half_base(kind)
    spec, tokens = base.spec(3, 2.0, head="shared"), some_tokens(20)
    forward = fastest_forward(base, spec)
    start = Start(fresh_adapter(spec, 3, 1).with_dense({name: part.float() for name, part in base.head.items()}))
    with torch.inference_mode():
        ((_, packed),) = forward.outputs(tokens, [start], [numpy.arange(20)])
        ids = torch.from_numpy(tokens[0].astype(numpy.int64))[None]
        padded = base.logits(ids, torch.ones_like(ids), start, spec)
    for logits in (packed.logits(), padded):
        assert logits.dtype == torch.float32
        assert logits.eq(logits.bfloat16().float()).float().mean() < 0.2
    torch.testing.assert_close(packed.logits()[0], padded[0], rtol=5e-2, atol=5e-2)


def test_the_fingerprint_is_that_of_the_checkpoint():
    """Raising the head changes no digest: both types of norms and heads stand for the same weights."""
    base = make_base(tiny_model("bert").bfloat16(), tokenizer(), "bert", LABELS)
    before = base.fingerprint
    model = base.model
    assert model.classifier.weight.dtype == model.bert.pooler.dense.weight.dtype == torch.float32
    assert model.bert.encoder.layer[0].attention.self.query.weight.dtype == torch.bfloat16
    assert half_base().fingerprint == before


def test_norms_in_bfloat16_have_gradients_as_good_as_their_rounding():
    draw = torch.Generator().manual_seed(0)
    norm = torch.nn.LayerNorm(64, eps=1e-12)
    norm.weight.data = (0.5 + torch.rand(64, generator=draw)).bfloat16().float()
    x = (50 + 3 * torch.randn(200, 64, generator=draw)).bfloat16()
    gradient = torch.randn(200, 64, generator=draw).bfloat16()

    def error(norm):
        one = x.clone().requires_grad_()
        norm(one).backward(gradient)
        other = x.double().requires_grad_()
        functional.layer_norm(other, (64,), norm.weight.double(), norm.bias.double(), 1e-12).backward(gradient.double())
        return float((one.grad.double() - other.grad).norm() / other.grad.norm())

    norm = norm.bfloat16()
    rounded = error(norm)
    raise_norms(norm)
    assert norm.weight.dtype == torch.float32
    assert error(norm) < 0.5 * HALF < rounded


def test_maps_that_read_one_input_cast_it_once():
    x, other = torch.randn(5, 4).bfloat16(), torch.randn(5, 4).bfloat16()
    with running(Pass()) as now:
        assert now.in_type(x, torch.float32) is now.in_type(x, torch.float32)
        assert now.in_type(other, torch.float32).equal(other.float())
        assert now.in_type(x, torch.float64).dtype == torch.float64
        assert now.in_type(x, torch.bfloat16) is x
        assert addition([torch.eye(4)], 2.0, 0.0)(x).equal(2 * x.float())


SHAPES = [(384, 384), (1536, 384), (384, 1536)]


def test_the_probe_takes_float32_where_bfloat16_is_not_clearly_faster():
    asked = []

    def seconds(shapes, tokens, dtype, device):
        asked.append((sorted(shapes), tokens, dtype))
        return 1e-3 if dtype == torch.float32 else 0.9e-3

    assert measured(SHAPES * 6, "cpu", seconds).dtype == "float32"
    assert asked[-1] == (sorted(SHAPES), 188, torch.bfloat16)


def test_the_probe_takes_bfloat16_where_it_is_twice_as_fast():
    found = measured(SHAPES, "cpu", lambda shapes, tokens, dtype, device: 2.0 if dtype == torch.float32 else 1.0)
    assert (found.dtype, found.speedup) == ("bfloat16", 2.0)


def test_the_probe_does_not_try_large_maps_where_small_ones_say_enough():
    asked = []

    def seconds(shapes, tokens, dtype, device):
        asked.append(max(shapes))
        return 1.0 if dtype == torch.float32 else 3.0

    assert measured([(8192, 2048)], "cpu", seconds).dtype == "float32"
    assert set(asked) == {(256, 256)}


def test_this_machine_is_asked_for_real():
    """Where the processor has no products in bfloat16, float32 it is, soon."""
    told = Path("/proc/cpuinfo")
    flags = told.read_text().split() if told.exists() else ["amx_bf16"]
    found = measured(SHAPES, "cpu")
    assert found.float32 > 0
    if not {"avx512_bf16", "amx_bf16"} & set(flags):
        assert found.dtype == "float32"


def test_the_shapes_of_a_base_need_no_weights(tmp_path):
    model = tiny_model("llama")
    model.config.save_pretrained(tmp_path)
    assert shapes_of(str(tmp_path)) == [(32, 32), (16, 32), (16, 32), (32, 32), (48, 32), (48, 32), (32, 48)] * 2
