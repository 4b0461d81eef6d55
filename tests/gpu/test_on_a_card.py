"""What only a CUDA device has, against the CPU and against attention by length. Run there by the command of docs/gpu.md.

FEDLORA_TEST_DEVICE=cpu runs what a CPU can do of it, to try the tests themselves.
"""

import os
from dataclasses import replace

import numpy
import pytest
import torch
from tiny_models import DECODERS, ENCODERS, LABELS, owned_by, some_tokens, tiny_model, tokenizer

from fedlora.core.adapter import BOTH, Start, fresh_adapter, on_device
from fedlora.core.rounds import Fit, FitJob, ScoreJob
from fedlora.training.bases.model import make_base
from fedlora.training.forward import attention, grouped
from fedlora.training.forward.attention import by_length
from fedlora.training.forward.client_order import one_of_a_few, pack_by_client
from fedlora.training.forward.packed import fastest_forward
from fedlora.training.forward.padded import PaddedForward
from fedlora.training.forward.varlen import is_usable, varlen
from fedlora.training.loop import ModelTrainer
from fedlora.training.settings import TrainSettings
from fedlora.training.tasks.classification import Classification

DEVICE = os.environ.get("FEDLORA_TEST_DEVICE", "cuda")
ON_CUDA = DEVICE.startswith("cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(ON_CUDA and not torch.cuda.is_available(), reason="no CUDA device"),
]
cuda_alone = pytest.mark.skipif(not ON_CUDA, reason="a kernel that only CUDA has")
TOKENS = some_tokens(20)
BATCHES = [numpy.array([3, 1, 4]), numpy.array([], dtype=int), numpy.array([7]), numpy.array([0, 11, 5, 9])]
WAYS = {"masked": float("inf"), "grouped": 0.0}


def bases(kind, dtype=torch.float32):
    """The same base on the CPU and on the device."""
    base = make_base(tiny_model(kind).to(dtype), tokenizer(), kind, LABELS)
    return base, base.copied_to(DEVICE)


def models(base, spec):
    """Four models of ranks 3, 1, 2 and 3 on the CPU, none of whose factors is zero."""
    starts = []
    for seed, rank in enumerate((3, 1, 2, 3)):
        draw, adapter = torch.Generator().manual_seed(seed), fresh_adapter(spec, rank, seed)
        moved = {m: torch.randn(t.shape, generator=draw) / 10 for m, t in adapter.output.items()}
        dense = {name: part.float() for name, part in base.head.items()}
        starts.append(Start(adapter.with_side("output", moved).with_dense(dense)))
    return starts


def scores_and_slopes(forward, starts):
    """The logits of all models with examples, and the gradients of their squares' sum, on the CPU."""
    there = [on_device(start, forward.device) for start in starts]
    adapters = [start.adapter for start, batch in zip(there, BATCHES, strict=True) if len(batch)]
    leaves = [leaf.requires_grad_() for one in adapters for part in (one.input, one.output) for leaf in part.values()]
    logits = [made.logits() for _, made in forward.outputs(TOKENS, there, BATCHES)]
    slopes = torch.autograd.grad(sum((one.float() ** 2).sum() for one in logits), leaves)
    return [tensor.detach().cpu() for tensor in (*logits, *slopes)]


def agree(left, right, tolerance):
    """Tensor by tensor, as a share of the largest number."""
    for one, other in zip(left, right, strict=True):
        assert bool(one.isfinite().all())
        assert float((one - other).detach().abs().max()) <= tolerance * (1e-3 + float(other.detach().abs().max()))


@pytest.mark.parametrize("kind", ENCODERS + DECODERS)
@pytest.mark.parametrize("way", WAYS)
def test_every_architecture_gives_in_float32_what_padded_batches_give_on_a_cpu(kind, way):
    base, there = bases(kind)
    spec = base.spec(3, 2.0, head="shared")
    starts = models(base, spec)
    forward = replace(fastest_forward(there, spec, DEVICE), masked_share=WAYS[way])
    agree(scores_and_slopes(forward, starts), scores_and_slopes(PaddedForward(base, spec), starts), 1e-3)


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert", "llama", "mistral"])
@pytest.mark.parametrize("size", [lambda tokens: tokens, one_of_a_few], ids=["as it is", "padded"])
def test_grouped_gives_in_bfloat16_what_masked_gives(kind, size):
    _, there = bases(kind, torch.bfloat16)
    spec = there.spec(3, 2.0, head="shared")
    starts, forward = models(there, spec), fastest_forward(there, spec, DEVICE)
    found = scores_and_slopes(replace(forward, masked_share=WAYS["grouped"], size=size), starts)
    agree(found, scores_and_slopes(replace(forward, masked_share=WAYS["masked"]), starts), 0.15)


def test_torchs_grouped_product_takes_bfloat16():
    assert grouped._works(torch.device(DEVICE).type, torch.bfloat16)


@pytest.mark.parametrize("counts", [(5, 1, 9), (320, 7, 311, 64), (1,) * 33])
def test_the_grouped_product_takes_groups_of_any_size(counts):
    """Forward and back in bfloat16 against one product for each group in float32."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(sum(counts), 64, generator=draw).to(DEVICE, torch.bfloat16).requires_grad_()
    factors = torch.randn(len(counts), 8, 64, generator=draw).to(DEVICE, torch.bfloat16).requires_grad_()
    ends = torch.tensor(counts).cumsum(0).int().to(DEVICE)
    found = grouped._product(x, factors.transpose(1, 2), ends)
    wide_x, wide = (tensor.detach().float().requires_grad_() for tensor in (x, factors))
    expected = torch.cat([part @ f.T for part, f in zip(wide_x.split(counts), wide, strict=True)])
    slope = torch.randn(found.shape, generator=draw).to(DEVICE)
    slopes = torch.autograd.grad(found, [x, factors], slope.bfloat16())
    agree(
        [found.float(), *(s.float() for s in slopes)],
        [expected, *torch.autograd.grad(expected, [wide_x, wide], slope)],
        0.02,
    )


@cuda_alone
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("shared", [4, 2])
def test_attention_for_any_length_gives_what_attention_by_length_gives(causal, window, shared):
    packed = pack_by_client(TOKENS, [batch for batch in BATCHES if len(batch)], DEVICE)
    order, draw = packed.order, torch.Generator().manual_seed(0)
    shapes = [(packed.ids.shape[1], heads, 32) for heads in (4, shared, shared)]
    narrow = [torch.randn(shape, generator=draw).to(DEVICE, torch.bfloat16).requires_grad_() for shape in shapes]
    wide = [tensor.detach().float().requires_grad_() for tensor in narrow]
    assert is_usable(narrow[0], causal, window)
    found = varlen(*narrow, order, causal, window, None)
    moved = (tensor.index_select(0, order.to_length) for tensor in wide)
    expected = by_length(*moved, packed.groups, causal, window, None).index_select(0, order.from_length)
    slope = torch.randn(found.shape, generator=draw).to(DEVICE)
    slopes = torch.autograd.grad(found, narrow, slope.bfloat16())
    agree([found.float(), *(s.float() for s in slopes)], [expected, *torch.autograd.grad(expected, wide, slope)], 0.03)


@cuda_alone
def test_attention_for_any_length_is_what_computes(monkeypatch):
    """Once a layer, where tokens lie client by client and the base has half-width numbers."""
    _, there = bases("bert", torch.bfloat16)
    assert there.model.config.num_hidden_layers == 2
    spec, calls = there.spec(3, 2.0, head="shared"), []
    forward = replace(fastest_forward(there, spec, DEVICE), masked_share=WAYS["grouped"])
    monkeypatch.setattr(attention, "varlen", lambda *args: calls.append(1) or varlen(*args))
    scores_and_slopes(forward, models(there, spec))
    assert len(calls) == 2


def fitted(base, device, forward):
    owned = owned_by(20, 4)
    settings = TrainSettings(steps=4, batch_size=4, lr=1e-3)
    parts = {"train": TOKENS, "test": TOKENS, "owned": owned}
    trainer = ModelTrainer(forward, Classification(LABELS), settings, **parts, seed=0, rounds=2)
    jobs = [
        FitJob(client, 1, Fit(start, BOTH)) for client, start in zip(owned, models(base, forward.spec), strict=True)
    ]
    answers = trainer.fit(jobs)
    return [answer.loss for answer in answers], trainer.score([ScoreJob(None, answers[0].start)])[0]


@pytest.mark.parametrize("kind", ["roberta", "llama"])
def test_training_gives_in_float32_the_losses_and_scores_of_a_cpu(kind):
    base, there = bases(kind)
    spec = base.spec(3, 2.0, head="shared")
    losses, score = fitted(base, DEVICE, fastest_forward(there, spec, DEVICE, 10**9))
    expected, expected_score = fitted(base, "cpu", PaddedForward(base, spec))
    assert losses == pytest.approx(expected, rel=1e-4)
    assert score.sums["loss"] == pytest.approx(expected_score.sums["loss"], rel=1e-4)


def test_a_second_copy_of_the_base_gives_the_same():
    """As where there are several cards: weights of its own, the same losses."""
    base, there = bases("roberta")
    spec = base.spec(3, 2.0, head="shared")
    other = there.copied_to("cuda:1" if torch.cuda.device_count() > 1 else DEVICE)
    where = str(next(other.model.parameters()).device)
    one, _ = fitted(base, DEVICE, fastest_forward(there, spec, DEVICE, 10**9))
    two, _ = fitted(base, where, fastest_forward(other, spec, where, 10**9))
    assert one == pytest.approx(two, rel=1e-5)


@pytest.mark.parametrize("kind", ["roberta", "llama"])
def test_training_in_bfloat16_comes_near_float32(kind):
    _, wide = bases(kind)
    _, narrow = bases(kind, torch.bfloat16)
    spec = wide.spec(3, 2.0, head="shared")
    one, _ = fitted(wide, DEVICE, fastest_forward(wide, spec, DEVICE, 10**9))
    two, _ = fitted(wide, DEVICE, fastest_forward(narrow, spec, DEVICE, 10**9))
    assert one == pytest.approx(two, rel=5e-2)
