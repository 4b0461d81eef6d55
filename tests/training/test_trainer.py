"""Both forwards against stock PEFT and torch, and the faults of public code that live in trainers."""

import sys
from dataclasses import replace

import numpy
import pytest
import torch
from tiny_models import owned_by, some_tokens, tiny_model
from torch.nn import functional

from fedlora.core.adapter import BOTH, INPUT, NEITHER, OUTPUT, Start, fresh_adapter
from fedlora.core.penalties import Proximal
from fedlora.core.rounds import Duration, Failure, Fit, FitJob, ScoreJob
from fedlora.core.seeds import numpy_stream
from fedlora.training import loop
from fedlora.training.bases.peft_files import write_peft
from fedlora.training.batches import padded
from fedlora.training.client_fit import rate_factor
from fedlora.training.forward.packed import fastest_forward
from fedlora.training.forward.padded import PaddedForward
from fedlora.training.loop import ModelTrainer
from fedlora.training.settings import TrainSettings
from fedlora.training.tasks.classification import Classification

SCALE = 2.0
FORWARDS = {"padded": PaddedForward, "packed": fastest_forward}
_current = PaddedForward


@pytest.fixture(params=FORWARDS, autouse=True)
def _each_forward(request, monkeypatch):
    """Every test here holds for both."""
    monkeypatch.setattr(sys.modules[__name__], "_current", FORWARDS[request.param])


def make(base, spec, settings, **named):
    return ModelTrainer(_current(base, spec), Classification(base.labels), settings, **named)


def trainer_of(base, settings=None, head="shared", clients=2, rounds=4, **others):
    tokens = some_tokens()
    spec = base.spec(3, SCALE, head=head)
    settings = settings or TrainSettings(batch_size=4, lr=1e-2)
    owned = owned_by(len(tokens), clients)
    return make(base, spec, settings, train=tokens, test=tokens, owned=owned, seed=0, rounds=rounds, **others)


def begin(trainer, nonzero=True):
    adapter = fresh_adapter(trainer.spec, 3, seed=1)
    if nonzero:
        torch.manual_seed(5)
        adapter = adapter.with_side("output", {m: 0.1 * torch.randn_like(B) for m, B in adapter.output.items()})
    return Start(adapter.with_dense(trainer.head if trainer.spec.head != "frozen" else {}))


def fit_one(trainer, start, sides=BOTH, client="c0", round=1, **others):
    (fitted,) = trainer.fit([FitJob(client, round, Fit(start, sides, **others))])
    return fitted


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "albert", "electra", "modernbert"])
@pytest.mark.parametrize("head", ["shared", "frozen"])
def test_training_is_that_of_stock_peft(tiny_base, tmp_path, kind, head):
    """Same start, same batches: stock PEFT with torch's AdamW ends where we end (faults a, b, e)."""
    from peft import PeftModel

    base = tiny_base(kind)
    trainer = trainer_of(base, TrainSettings(batch_size=4, lr=1e-2, lr_b_ratio=3.0, weight_decay=0.1), head)
    start = begin(trainer)
    fitted = fit_one(trainer, start, round=2)

    write_peft(tmp_path, start, trainer.spec, base, trainer.head)
    model = PeftModel.from_pretrained(tiny_model(kind), str(tmp_path), is_trainable=True).eval()
    named = dict(model.named_parameters())
    A = [p for n, p in named.items() if ".lora_A." in n]
    B = [p for n, p in named.items() if ".lora_B." in n]
    heads = [p for n, p in named.items() if ".modules_to_save." in n] if head == "shared" else []
    groups = [{"params": A, "lr": 1e-2}, {"params": B, "lr": 3e-2}, {"params": heads, "lr": 1e-2}]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=0.1)
    order = numpy_stream(0, "batches", 2, "c0", 0).permutation(numpy.arange(10))
    losses = []
    for first in (0, 4, 8):
        ids, mask = padded(some_tokens(), order[first : first + 4], 0)
        labels = torch.from_numpy(some_tokens().labels[order[first : first + 4]])
        loss = functional.cross_entropy(model(input_ids=ids, attention_mask=mask).logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()) * len(labels))
    assert fitted.steps == 3
    assert fitted.loss == pytest.approx(sum(losses) / 10, rel=1e-4)
    adapter = fitted.start.adapter
    for module in base.shapes:
        prefix = f"base_model.model.{module}"
        torch.testing.assert_close(
            adapter.input[module], named[f"{prefix}.lora_A.default.weight"].data, rtol=1e-3, atol=1e-4
        )
        torch.testing.assert_close(
            adapter.output[module], named[f"{prefix}.lora_B.default.weight"].data, rtol=1e-3, atol=1e-4
        )
    assert set(adapter.dense) == (set(base.head) if head == "shared" else set())
    for name, part in adapter.dense.items():
        owner = name.rpartition(".")[0]
        top = next(
            o
            for o in (owner, owner.rpartition(".")[0])
            if f"base_model.model.{o}.modules_to_save.default" in dict(model.named_modules())
        )
        inner = name.removeprefix(f"{top}.")
        torch.testing.assert_close(
            part, named[f"base_model.model.{top}.modules_to_save.default.{inner}"].data, rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("sides", [INPUT, OUTPUT, BOTH, NEITHER], ids=["A", "B", "both", "neither"])
def test_only_the_ordered_sides_move(tiny_base, sides):
    """Fault (e): freezing that does not take. The base never moves either."""
    base = tiny_base("bert")
    weights = {name: own.clone() for name, own in base.model.named_parameters()}
    trainer = trainer_of(base)
    start = begin(trainer)
    fitted = fit_one(trainer, start, sides)
    for side in ("input", "output"):
        for module, before in start.adapter.side(side).items():
            assert fitted.start.adapter.side(side)[module].equal(before) == (side not in sides)
    assert not fitted.start.adapter.dense["classifier.weight"].equal(start.adapter.dense["classifier.weight"])
    assert all(own.equal(weights[name]) for name, own in base.model.named_parameters())


def test_a_frozen_head_does_not_move(tiny_base):
    trainer = trainer_of(tiny_base("bert"), head="frozen")
    assert fit_one(trainer, begin(trainer)).start.adapter.dense == {}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("sides", [INPUT, OUTPUT, BOTH])
def test_masked_slots_stay_exactly_where_they_are(tiny_base, optimizer, sides):
    """Fault (j): weight decay or old moments that move what the mask should hold."""
    settings = TrainSettings(batch_size=4, lr=1e-2, weight_decay=0.5, optimizer=optimizer)
    trainer = trainer_of(tiny_base("bert"), settings)
    start = begin(trainer)
    generator = torch.Generator().manual_seed(3)
    mask = {m: torch.rand(3, generator=generator) < 0.5 for m in start.adapter.input}
    adapter = fit_one(trainer, start, sides, mask=mask, duration=Duration(epochs=3)).start.adapter
    for module, moves in mask.items():
        A, B = (
            adapter.input[module] - start.adapter.input[module],
            adapter.output[module] - start.adapter.output[module],
        )
        assert not A[~moves].any()
        assert not B[:, ~moves].any()
        assert A[moves].any(dim=1).all() == ("input" in sides or not moves.any())
        assert B[:, moves].any(dim=0).all() == ("output" in sides or not moves.any())


def test_a_mask_trains_like_an_adapter_of_the_chosen_slots_alone(tiny_base):
    """The oracle: the other slots as part of the base, the chosen ones as a smaller adapter."""
    trainer = trainer_of(tiny_base("bert"), TrainSettings(batch_size=4, lr=1e-2, weight_decay=0.1))
    start = begin(trainer)
    chosen = torch.tensor([True, False, True])
    masked = fit_one(trainer, start, mask=dict.fromkeys(start.adapter.input, chosen)).start.adapter
    own = start.adapter
    rest = {m: own.output[m][:, ~chosen] @ own.input[m][~chosen] for m in own.input}
    small = replace(
        own, input={m: A[chosen] for m, A in own.input.items()}, output={m: B[:, chosen] for m, B in own.output.items()}
    )
    alone = fit_one(trainer, Start(small, rest)).start.adapter
    for module in own.input:
        torch.testing.assert_close(masked.input[module][chosen], alone.input[module], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(masked.output[module][:, chosen], alone.output[module], rtol=1e-3, atol=1e-4)


def test_the_merged_update_is_not_brought_back(tiny_base):
    """It does not train: the answer holds the very one of the request, and no copy from the device."""
    trainer = trainer_of(tiny_base("bert"))
    start = begin(trainer)
    merged = {
        module: torch.zeros(B.shape[0], start.adapter.input[module].shape[1])
        for module, B in start.adapter.output.items()
    }
    assert fit_one(trainer, replace(start, merged=merged)).start.merged is merged


@pytest.mark.parametrize("head", ["shared", "private", "frozen"])
def test_nothing_of_one_client_is_left_for_the_next(tiny_base, head):
    """Fault (d): one model object handed round. And (f): the optimiser is fresh for every fit."""
    trainer = trainer_of(tiny_base("bert"), head=head)
    start = begin(trainer)
    alone = fit_one(trainer, start, client="c1", round=2)
    together = trainer.fit([FitJob(c, 2, Fit(start, BOTH)) for c in ("c0", "c1")])[1]
    again = fit_one(trainer, start, client="c1", round=2)
    for other in (together, again):
        near = (
            {"rtol": 1e-3, "atol": 1e-4}
            if other is together and _current is fastest_forward
            else {"rtol": 0, "atol": 0}
        )
        for part in ("input", "output", "dense"):
            torch.testing.assert_close(getattr(other.start.adapter, part), getattr(alone.start.adapter, part), **near)
    untouched = begin(trainer).adapter
    assert all(t.equal(untouched.input[m]) for m, t in start.adapter.input.items())


def test_the_schedule_runs_over_the_whole_run_and_a_probe_does_not_advance_it(tiny_base, monkeypatch):
    """Fault (f): a schedule that starts again with every round."""
    seen = []
    monkeypatch.setattr(loop, "rate_factor", lambda settings, progress: seen.append(progress) or 1.0)
    trainer = trainer_of(tiny_base("bert"), rounds=4)
    start = begin(trainer)
    fit_one(trainer, start, round=1)
    fit_one(trainer, start, round=3)
    fit_one(trainer, start, round=3, probe=True)
    thirds = [0, 1 / 3, 2 / 3]
    expected = [(0 + part) / 4 for part in thirds] + [(2 + part) / 4 for part in thirds] + [2 / 4] * 3
    assert seen == pytest.approx(expected)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (TrainSettings(), [1, 1, 1]),
        (TrainSettings(schedule="linear"), [1, 0.5, 0]),
        (TrainSettings(schedule="cosine"), [1, 0.5, 0]),
        (TrainSettings(schedule="linear", warmup=0.5), [0, 1, 0]),
    ],
)
def test_rates(settings, expected):
    assert [rate_factor(settings, progress) for progress in (0.0, 0.5, 1.0)] == pytest.approx(expected)


def test_a_probe_draws_its_own_batches(tiny_base):
    trainer = trainer_of(tiny_base("bert"))
    start = begin(trainer)
    real, probe = (fit_one(trainer, start, probe=probe).start.adapter for probe in (False, True))
    assert any(not t.equal(probe.input[m]) for m, t in real.input.items())


def test_micro_batches_change_no_result_beyond_rounding(tiny_base):
    whole = trainer_of(tiny_base("bert"), TrainSettings(batch_size=5, lr=1e-3))
    parts = trainer_of(tiny_base("bert"), TrainSettings(batch_size=5, micro_batch=2, lr=1e-3))
    one, two = (fit_one(trainer, begin(trainer)) for trainer in (whole, parts))
    assert one.loss == pytest.approx(two.loss, rel=1e-5)
    for module, A in one.start.adapter.input.items():
        torch.testing.assert_close(A, two.start.adapter.input[module], rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize(
    ("duration", "steps"), [(Duration(epochs=2), 6), (Duration(steps=4), 4), (Duration(steps=1), 1)]
)
def test_epochs_and_steps(tiny_base, duration, steps):
    trainer = trainer_of(tiny_base("bert"))
    assert fit_one(trainer, begin(trainer), duration=duration).steps == steps


def test_a_loss_that_is_not_finite_is_that_clients_failure(tiny_base):
    trainer = trainer_of(tiny_base("bert"), TrainSettings(batch_size=4, lr=1e30, optimizer="sgd"))
    fitted = fit_one(trainer, begin(trainer))
    assert isinstance(fitted, Failure)
    assert fitted.kind == "diverged"
    assert "step" in fitted.reason


def test_dropout_on_adapters_is_seeded(tiny_base):
    trainer = trainer_of(tiny_base("bert"), TrainSettings(batch_size=4, lr=1e-2, dropout=0.3))
    plain = trainer_of(tiny_base("bert"), TrainSettings(batch_size=4, lr=1e-2))
    start = begin(trainer)
    one, two, none = fit_one(trainer, start), fit_one(trainer, start), fit_one(plain, start)
    module = next(iter(start.adapter.input))
    assert one.start.adapter.input[module].equal(two.start.adapter.input[module])
    assert not one.start.adapter.input[module].equal(none.start.adapter.input[module])


def test_scores_are_sums_over_examples(tiny_base):
    """Padding and order do not matter: against the model called one example at a time."""
    base = tiny_base("roberta")
    trainer = trainer_of(base)
    start = begin(trainer)
    (whole,) = trainer.score([ScoreJob(None, start)])
    parts = trainer.score([ScoreJob(client, start) for client in ("c0", "c1")])
    tokens, correct, loss = some_tokens(), 0, 0.0
    with torch.no_grad():
        for example in range(len(tokens)):
            ids, mask = padded(tokens, numpy.array([example]), 0)
            labels = torch.from_numpy(tokens.labels[[example]])
            logits = base.logits(ids, mask, start, trainer.spec)
            correct += int(logits.argmax() == labels)
            loss += float(functional.cross_entropy(logits, labels))
    assert (whole.examples, whole.sums["correct"]) == (len(tokens), correct)
    assert whole.sums["loss"] == pytest.approx(loss, rel=1e-4)
    assert sum(part.sums["correct"] for part in parts) == correct
    assert sum(part.sums["loss"] for part in parts) == pytest.approx(loss, rel=1e-4)


def test_no_examples_no_score(tiny_base):
    trainer = trainer_of(tiny_base("bert"))
    (score,) = trainer.score([ScoreJob("c0", begin(trainer), part="validation")])
    assert (score.examples, trainer.scoring.values(score)) == (0, {})


def test_a_clients_own_names_are_its_labels_everywhere(tiny_base):
    """Training and scoring with names equals training and scoring on examples that carry those labels."""
    base, tokens = tiny_base("bert"), some_tokens()
    names = numpy.array([2, 0, 1])
    owned = owned_by(len(tokens), 2)
    renamed = {client: replace(own, label_permutation=names) for client, own in owned.items()}
    settings, spec = TrainSettings(batch_size=4, lr=1e-2), base.spec(3, SCALE, head="shared")
    one = make(base, spec, settings, train=tokens, test=tokens, owned=renamed, seed=0, rounds=4)
    carried = replace(tokens, labels=names[tokens.labels])
    other = make(base, spec, settings, train=carried, test=carried, owned=owned, seed=0, rounds=4)
    fitted = [fit_one(trainer, begin(trainer)) for trainer in (one, other)]
    assert fitted[0].loss == fitted[1].loss
    assert all(t.equal(fitted[1].start.adapter.input[m]) for m, t in fitted[0].start.adapter.input.items())
    scores = [trainer.score([ScoreJob("c0", fitted[0].start)])[0] for trainer in (one, other)]
    assert scores[0] == scores[1]
    assert one.score([ScoreJob(None, fitted[0].start)]) != other.score([ScoreJob(None, fitted[0].start)])


def test_a_pull_towards_the_start(tiny_base):
    """By hand: SGD with a proximal term for two steps is SGD on the gradient plus mu times the way gone."""
    settings = TrainSettings(steps=2, batch_size=10, lr=0.1, optimizer="sgd")
    trainer = trainer_of(tiny_base("bert"), settings, head="frozen")
    start, mu = begin(trainer), 0.7
    first = fit_one(trainer, start, OUTPUT, duration=Duration(steps=1))
    pulled = fit_one(trainer, start, OUTPUT, penalties=(Proximal(mu, OUTPUT),))
    plain = fit_one(trainer, start, OUTPUT)
    for module, B in start.adapter.output.items():
        gone = first.start.adapter.output[module] - B  # both steps see the same examples' mean gradient
        difference = pulled.start.adapter.output[module] - plain.start.adapter.output[module]
        torch.testing.assert_close(difference, -0.1 * mu * gone, rtol=1e-3, atol=1e-6)
    assert pulled.loss == pytest.approx(plain.loss, rel=1e-5)  # the loss told is the data's


def test_the_mean_gradient_is_that_of_the_steps(tiny_base):
    """With SGD at rate 0.1 the way gone is -0.1 times the sum of the steps' gradients."""
    settings = TrainSettings(batch_size=4, lr=0.1, optimizer="sgd")
    trainer = trainer_of(tiny_base("bert"), settings, head="frozen")
    start = begin(trainer)
    fitted = fit_one(trainer, start, OUTPUT, measure="gradient")
    assert fitted.gradient.keys() == {"output"}
    for module, B in start.adapter.output.items():
        gone = fitted.start.adapter.output[module] - B
        torch.testing.assert_close(gone, -0.1 * fitted.steps * fitted.gradient["output"][module], rtol=1e-3, atol=1e-6)
    assert not fit_one(trainer, start, OUTPUT).gradient
