"""Language models: the loss and its gradients are those of transformers, packed as padded, whatever the architecture."""

from dataclasses import replace

import numpy
import pytest
import torch
from tiny_models import LANGUAGE_MODELS, owned_by, some_dialogues, tiny_language_model, tokenizer
from torch.utils.flop_counter import FlopCounterMode

from fedlora.core.adapter import BOTH, Adapter, Start, fresh_adapter
from fedlora.core.kinds import vera_projection
from fedlora.core.lowrank import LowRank
from fedlora.core.rounds import Fit, FitJob, ScoreJob
from fedlora.errors import ModelError
from fedlora.training.bases.model import make_causal_base
from fedlora.training.batches import padded
from fedlora.training.forward import packing
from fedlora.training.forward.outputs import Outputs
from fedlora.training.forward.packed import PaddedInstead, fastest_forward
from fedlora.training.forward.padded import PaddedForward
from fedlora.training.loop import ModelTrainer
from fedlora.training.settings import TrainSettings
from fedlora.training.tasks import causal_lm
from fedlora.training.tasks.causal_lm import CausalLM

TASK = CausalLM(40)
BATCHES = [numpy.array([3, 1, 12]), numpy.array([7]), numpy.array([0, 11, 5, 2])]
SINGLE_NORMS = {"llama", "qwen2", "mistral", "qwen3", "phi3", "gemma"}
"""Their norms compute in float32 whatever the type of the model."""


def base_of(kind, dtype=torch.float64, **changes):
    return make_causal_base(tiny_language_model(kind, **changes).to(dtype), tokenizer(), kind)


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
            )
        )
        for rank in (2, 1, 3)
    ]


def losses_and_gradients(forward, starts, tokens):
    """Every client's loss and the gradients of a sum in which no two clients weigh the same."""
    losses = {n: TASK.loss(made, tokens, BATCHES[n], None) for n, made in forward.outputs(tokens, starts, BATCHES)}
    leaves = [t for s in starts for part in (s.adapter.input, s.adapter.output) for t in part.values()]
    total = sum((number + 1) * loss for number, loss in losses.items())
    return [losses[n] for n in range(3)], torch.autograd.grad(total, leaves)


def near(one, other, kind):
    rtol, atol = (1e-5, 1e-6) if kind in SINGLE_NORMS else (1e-9, 1e-11)
    for left, right in zip(one, other, strict=True):
        torch.testing.assert_close(left, right, rtol=rtol, atol=atol)


@pytest.mark.parametrize("kind", [kind for kind in LANGUAGE_MODELS if kind != "gemma2"])
def test_packed_and_padded_agree_in_float64(kind):
    """Three clients of unlike ranks in one pack: losses and the gradients of all their factors."""
    base, tokens = base_of(kind), some_dialogues()
    spec, starts = base.spec(3, 2.0), starts_of(base)
    forward = fastest_forward(base, spec)
    assert not isinstance(forward, PaddedForward)
    oracle = losses_and_gradients(PaddedForward(base, spec), starts, tokens)
    found = losses_and_gradients(forward, starts, tokens)
    near(found[0], oracle[0], kind)
    near(found[1], oracle[1], kind)


def test_attention_that_is_more_than_softmax_is_padded_and_said():
    """Gemma 2 bounds its attention's logits, which packed attention does not compute."""
    base = base_of("gemma2")
    with pytest.warns(PaddedInstead, match="gemma2 cannot be packed"):
        assert isinstance(fastest_forward(base, base.spec(3, 2.0)), PaddedForward)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_loss_is_that_of_transformers(kind):
    """A stock model given labels, -100 where nothing is supervised."""
    base, tokens = base_of(kind), some_dialogues()
    start = Start(fresh_adapter(base.spec(3, 2.0), 3, 1))
    examples = numpy.arange(len(tokens))
    ((_, outputs),) = fastest_forward(base, base.spec(3, 2.0)).outputs(tokens, [start], [examples])
    ids, mask = padded(tokens, examples, 0)
    labels = torch.full_like(ids, -100)
    for row, example in enumerate(examples):
        learned = torch.from_numpy(tokens.mask(example))
        labels[row, : len(learned)][learned] = ids[row, : len(learned)][learned]
    stock = tiny_language_model(kind).double()
    with torch.no_grad():
        expected = stock(input_ids=ids, attention_mask=mask, labels=labels).loss
    mean = TASK.loss(outputs, tokens, examples, None) / TASK.predictions(tokens, examples)
    assert float(mean) == pytest.approx(float(expected), rel=1e-6)
    sums = TASK.sums(outputs, tokens, examples, None)
    assert sums["tokens"] == int((labels[:, 1:] != -100).sum()) == TASK.predictions(tokens, examples)
    assert sums["loss"] / sums["tokens"] == pytest.approx(float(expected), rel=1e-6)
    right = stock(input_ids=ids, attention_mask=mask).logits[:, :-1].argmax(-1) == labels[:, 1:]
    assert sums["hits"] == int(right.sum())
    assert sums["bytes"] == int(tokens.text_bytes.sum())


@pytest.mark.parametrize("trains", [False, True])
def test_the_loss_in_chunks_is_the_loss_at_once(trains, monkeypatch):
    """Whether the product with the vocabulary is frozen or trains; a chunk holds no more logits than it may."""
    tokens = some_dialogues()
    draw = torch.Generator().manual_seed(0)
    places = TASK.predictions(tokens, numpy.arange(20))
    hidden = torch.randn(places, 7, generator=draw, dtype=torch.float64).requires_grad_()
    weight = torch.randn(60, 7, generator=draw, dtype=torch.float64).requires_grad_(trains)
    seen = []

    def head(states):
        seen.append(len(states))
        return states @ weight.T

    def made(chunk):
        monkeypatch.setattr(causal_lm, "_LOGITS", chunk)
        seen.clear()
        loss = 3.0 * TASK.loss(Outputs(hidden, head, 60, trains), tokens, numpy.arange(20), None)
        wanted = [hidden, weight] if trains else [hidden]
        return [loss, *torch.autograd.grad(loss, wanted)], max(seen)

    whole, most = made(10**9)
    assert most == places
    cut, most = made(60 * 4)
    assert most == 4
    torch.testing.assert_close(cut, whole, rtol=1e-12, atol=1e-12)


def trainers(base, spec, settings, owned, **others):
    tokens = some_dialogues(40)
    named = {"train": tokens, "test": tokens, "owned": owned, "seed": 0, "rounds": 4}
    forwards = PaddedForward(base, spec), fastest_forward(base, spec, **others)
    return [ModelTrainer(forward, TASK, settings, **named) for forward in forwards]


def wide(adapter):
    parts = [{m: t.double() for m, t in part.items()} for part in (adapter.input, adapter.output, adapter.dense)]
    return Adapter(*parts, adapter.kind)


def agree(one, other, tolerance):
    for left, right in zip(one, other, strict=True):
        assert left.steps == right.steps
        assert left.loss == pytest.approx(right.loss, rel=tolerance)
        for part in ("input", "output"):
            torch.testing.assert_close(
                getattr(left.start.adapter, part), getattr(right.start.adapter, part), rtol=tolerance, atol=tolerance
            )


@pytest.mark.parametrize("kind", ["lora", "vera", "dense"])
@pytest.mark.parametrize("model", ["gpt2", "gpt_neox"])
def test_every_kind_of_adapter_trains_alike_packed_and_padded(kind, model):
    """GPT-2's embedding is its product with the vocabulary, too: a dense adapter moves both as one."""
    base = base_of(model, tie_word_embeddings=model == "gpt2")
    if kind == "vera":
        pair = vera_projection(base.shapes, 4, 7)
        spec = base.spec(4, 2.0, "vera", projection=LowRank(pair.A.double(), pair.B.double()))
    else:
        spec = base.spec(3, 2.0, kind)
    padded_one, packed = trainers(base, spec, TrainSettings(steps=5, batch_size=4, lr=1e-3), owned_by(40, 3))
    start = Start(wide(fresh_adapter(spec, spec.rank, 1)))
    jobs = [FitJob(f"c{k}", 1, Fit(start, BOTH)) for k in range(3)]
    one, other = padded_one.fit(jobs), packed.fit(jobs)
    agree(one, other, 1e-8)
    scores = [t.score([ScoreJob(None, one[0].start)])[0] for t in (padded_one, packed)]
    assert scores[0].sums["loss"] == pytest.approx(scores[1].sums["loss"], rel=1e-9)
    assert scores[0].examples == scores[1].examples == 40


def test_the_loss_of_a_fit_is_the_mean_over_tokens():
    """Not the mean of the batches' means: batches hold unlike numbers of supervised tokens."""
    base = base_of("gpt2")
    spec = base.spec(2, 1.0)
    _, packed = trainers(base, spec, TrainSettings(epochs=1, batch_size=7, lr=1e-30), owned_by(40, 1))
    start = Start(wide(fresh_adapter(spec, 2, 1)))
    (fitted,) = packed.fit([FitJob("c0", 1, Fit(start, BOTH))])
    (score,) = packed.score([ScoreJob(None, start)])
    assert fitted.loss == pytest.approx(score.sums["loss"] / score.sums["tokens"], rel=1e-9)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_layers_are_computed_again_in_the_backward_pass_and_give_the_same(kind, monkeypatch):
    """The same numbers to the last bit, from less memory: between the passes a layer keeps its input alone."""
    base, tokens = base_of(kind), some_dialogues()
    spec, starts = base.spec(3, 2.0), starts_of(base)
    kept, found = [], []
    for checkpointing in (False, True):
        forward, saved = fastest_forward(base, spec, checkpointing=checkpointing), []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, to=saved: to.append(t.numel()) or t, lambda t: t):
            found.append(losses_and_gradients(forward, starts, tokens))
        kept.append(sum(saved))
    for one, other in zip(*found, strict=True):
        assert all(left.equal(right) for left, right in zip(one, other, strict=True))
    assert kept[1] < kept[0] / 3


@pytest.mark.parametrize(
    ("kind", "maps"), [("llama", ["q_proj", "o_proj", "up_proj", "down_proj"]), ("gpt2", ["c_fc"])]
)
def test_the_last_layer_is_computed_for_the_read_tokens_alone(kind, maps):
    """All but what makes keys and values; the numbers are those of the test against the padded model."""
    base, tokens = base_of(kind), some_dialogues()
    spec, starts = base.spec(3, 2.0), starts_of(base)
    forward = fastest_forward(base, spec)
    names = {name for name, module in base.model.named_modules() if module in forward.encoder.idle}
    assert all(any(name.endswith(end) for name in names) for end in maps)
    assert not any(name.endswith(("k_proj", "v_proj", "c_attn")) for name in names)

    def flop():
        with FlopCounterMode(display=False) as counter:
            found = losses_and_gradients(forward, starts, tokens)
        return counter.get_total_flops(), found

    less, found = flop()
    forward.encoder.idle = frozenset()
    more, whole = flop()
    assert less < 0.95 * more
    near(found[0], whole[0], kind)
    near(found[1], whole[1], kind)


def test_a_map_that_keys_depend_on_is_not_left_out(monkeypatch):
    """The planted fault: all maps of the last layer are taken for idle, and the trial sees it."""
    monkeypatch.setattr(torch.autograd, "grad", lambda taken, weights, **_: [None for _ in weights])
    base = base_of("llama")
    assert fastest_forward(base, base.spec(3, 2.0)).encoder.idle == frozenset()


def test_what_lies_below_the_adapted_layers_is_kept():
    tokens = some_dialogues()
    base = make_causal_base(tiny_language_model("gpt2").double(), tokenizer(), "gpt2", layers=[1])
    spec, starts = base.spec(3, 2.0), starts_of(base)
    forward = fastest_forward(base, spec)
    assert forward.trunk is not None
    oracle = losses_and_gradients(PaddedForward(base, spec), starts, tokens)
    found = losses_and_gradients(forward, starts, tokens)
    near(found[0], oracle[0], "gpt2")
    near(found[1], oracle[1], "gpt2")


def test_a_pack_that_reads_other_tokens_is_not_taken(monkeypatch):
    """The planted fault: one place further, which still exists and still gives logits."""
    usual = packing.Pack

    def shifted(*args, **named):
        made = usual(*args, **named)
        return replace(made, predicting=tuple(places - 1 for places in made.predicting))

    monkeypatch.setattr(packing, "Pack", shifted)
    base = base_of("gpt2")
    with pytest.warns(PaddedInstead):
        fastest_forward(base, base.spec(3, 2.0))


def test_a_checkpoint_without_its_vocabulary_is_refused():
    with pytest.raises(ModelError, match=r"no weights for lm_head\.weight, so that it predicts no text"):
        make_causal_base(tiny_language_model("llama"), tokenizer(), "llama", missing=["lm_head.weight"])


def test_heads_stay_in_the_type_of_the_base():
    """A tied embedding must not be doubled in size by a head that is raised to float32."""
    base = base_of("gpt2", torch.bfloat16)
    assert base.model.lm_head.weight is base.model.transformer.wte.weight
    assert base.model.lm_head.weight.dtype == torch.bfloat16
    assert not base.head
