"""A client's test part goes through the forward pass once, where the global model has the numbers of the client's."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import some_tokens

from fedlora.app.build.simulation import build
from fedlora.app.config.schema import read_config
from fedlora.app.run.dry_run import dry_run
from fedlora.core.adapter import BOTH, Start, fresh_adapter
from fedlora.core.lowrank import LowRank
from fedlora.core.rounds import Fit, FitJob, ScoreJob
from fedlora.federation.server import begin, federate
from fedlora.training import loop
from fedlora.training.data.digests import model_digest
from fedlora.training.data.scored_parts import ScoredParts, server_parts
from fedlora.training.data.split import Owned
from fedlora.training.forward.packed import fastest_forward
from fedlora.training.forward.padded import PaddedForward
from fedlora.training.loop import ModelTrainer
from fedlora.training.settings import TrainSettings
from fedlora.training.tasks.classification import Classification


class Counting:
    """A forward that counts the tokens that go through it without gradients."""

    def __init__(self, forward):
        self.forward, self.tokens = forward, []

    def __getattr__(self, name):
        return getattr(self.forward, name)

    def outputs(self, tokens, starts, batches, dropout=0.0):
        if torch.is_inference_mode_enabled():
            self.tokens.append(sum(int(tokens.lengths[batch].sum()) for batch in batches))
        return self.forward.outputs(tokens, starts, batches, dropout)

    def take(self):
        """The tokens since the last call."""
        told = sum(self.tokens)
        self.tokens.clear()
        return told


TOKENS = some_tokens(40)
ALL = int(TOKENS.lengths.sum())


def uneven(**others):
    """Clients of 3, 9, 1 and 20 test examples; seven are nobody's."""
    cuts = numpy.split(numpy.arange(40), [3, 12, 13, 33])[:4]
    return {f"c{k}": Owned(part, part[::2], part, **others) for k, part in enumerate(cuts)}


def trainer_of(base, owned, forward=fastest_forward, count_labels=False):
    spec = base.spec(3, 2.0, head="shared")
    task = Classification(base.labels, clients_count_labels=count_labels)
    settings = TrainSettings(batch_size=4, lr=1e-2)
    named = {"train": TOKENS, "test": TOKENS, "owned": owned, "seed": 0, "rounds": 4}
    return ModelTrainer(Counting(forward(base, spec)), task, settings, **named)


def start_of(trainer):
    adapter, draw = fresh_adapter(trainer.spec, 3, seed=1), torch.Generator().manual_seed(5)
    B = {m: 0.1 * torch.randn(t.shape, generator=draw) for m, t in adapter.output.items()}
    merged = {m: LowRank(adapter.input[m][:1].clone(), B[m][:, :1].clone()) for m in list(B)[:1]}
    return Start(adapter.with_side("output", B).with_dense(trainer.head), merged)


def copied(start):
    """The same numbers in other tensors, as they arrive over a wire, and in another order."""
    adapter = start.adapter
    parts = [{m: t.clone() for m, t in reversed(part.items())} for part in (adapter.input, adapter.output)]
    head = {m: t.clone() for m, t in adapter.dense.items()}
    return Start(replace(adapter, input=parts[0], output=parts[1], dense=head), dict(start.merged))


def with_one_number_changed(start, part):
    """The smallest change of one number of one tensor."""

    def changed(tensor):
        tensor = tensor.clone()
        tensor.view(-1)[-1] = torch.nextafter(tensor.view(-1)[-1], torch.tensor(torch.inf))
        return tensor

    adapter = start.adapter
    if part == "merged":
        ((module, pair),) = start.merged.items()
        return Start(adapter, {module: LowRank(pair.A, changed(pair.B))})
    tensors = dict(getattr(adapter, part))
    last = list(tensors)[-1]
    return replace(start, adapter=replace(adapter, **{part: tensors | {last: changed(tensors[last])}}))


@pytest.mark.parametrize("part", ["test", "validation"])
@pytest.mark.parametrize("permuted", [False, True])
@pytest.mark.parametrize("forward", [PaddedForward, fastest_forward])
def test_the_global_score_is_that_of_a_second_pass_bit_for_bit(tiny_base, part, permuted, forward):
    owned = uneven(label_permutation=numpy.array([2, 0, 1]) if permuted else None)
    base = tiny_base("bert")
    trainer, second = trainer_of(base, owned, forward), trainer_of(base, owned, forward)
    start = start_of(trainer)
    personal = trainer.score([ScoreJob(client, copied(start), part) for client in owned])
    seen = trainer._forward.take()
    (whole,) = trainer.score([ScoreJob(None, copied(start), part)])
    left = trainer._forward.take()
    assert [whole] == second.score([ScoreJob(None, start, part)])
    expected = int(TOKENS.lengths[33:].sum()) if part == "test" else 0
    assert (left, seen + left) == (expected, second._forward.take())
    assert (personal[1].sums["correct"] == whole.sums["correct"]) is False  # it is no client's alone
    if not permuted:
        apart = [second.score([ScoreJob(client, start, part)])[0] for client in owned]
        assert personal == apart


def test_the_global_score_is_that_of_one_padded_pass_over_the_whole_set(tiny_base):
    """The way it was before: the whole set by length, cut by nobody's parts."""
    base = tiny_base("bert")
    trainer, plain = trainer_of(base, uneven()), trainer_of(base, {}, PaddedForward)
    start = start_of(trainer)
    trainer.score([ScoreJob(client, start) for client in uneven()])
    (whole,), (oracle,) = trainer.score([ScoreJob(None, start)]), plain.score([ScoreJob(None, start)])
    counts = {name: n for name, n in whole.sums.items() if name != "loss"}
    assert (whole.examples, counts) == (oracle.examples, {name: oracle.sums[name] for name in counts})
    assert whole.sums["loss"] == pytest.approx(oracle.sums["loss"], rel=1e-6)
    assert oracle.sums.keys() == whole.sums.keys()


@pytest.mark.parametrize("part", ["input", "output", "dense", "merged"])
def test_a_model_that_differs_in_one_number_is_scored_anew(tiny_base, part):
    trainer = trainer_of(tiny_base("bert"), uneven())
    start = start_of(trainer)
    other = with_one_number_changed(start, part)
    assert model_digest(copied(start)) == model_digest(start) != model_digest(other)
    trainer.score([ScoreJob(client, start) for client in uneven()])
    trainer.score([ScoreJob("c1", other)])
    trainer._forward.take()
    trainer.score([ScoreJob(None, start)])
    assert trainer._forward.take() == int(TOKENS.lengths[3:12].sum() + TOKENS.lengths[33:].sum())
    trainer.score([ScoreJob(None, other)])
    assert trainer._forward.take() == ALL - int(TOKENS.lengths[3:12].sum())


def test_a_digest_that_misses_a_number_would_be_seen(tiny_base, monkeypatch):
    """The planted fault: models told apart by the shapes of their tensors give the score of the wrong one."""
    base = tiny_base("bert")
    honest, faulty = trainer_of(base, uneven()), trainer_of(base, uneven())
    start = start_of(honest)
    other = replace(start, adapter=start.adapter.with_side("output", {m: -t for m, t in start.adapter.output.items()}))

    def whole(trainer):
        trainer.score([ScoreJob(client, start) for client in uneven()])
        return trainer.score([ScoreJob(None, other)])

    expected = whole(honest)
    monkeypatch.setattr(loop, "model_digest", lambda start: b"the same shapes")
    assert whole(faulty) != expected


def test_training_drops_what_was_scored(tiny_base):
    trainer = trainer_of(tiny_base("bert"), uneven())
    start = start_of(trainer)
    trainer.score([ScoreJob(client, start) for client in uneven()])
    trainer.fit([FitJob("c0", 1, Fit(start, BOTH))])
    trainer._forward.take()
    trainer.score([ScoreJob(None, start)])
    assert trainer._forward.take() == ALL


@pytest.mark.parametrize("forward", [PaddedForward, fastest_forward])
def test_slots_that_add_nothing_make_no_other_model(tiny_base, forward):
    """A slot with zeros on one side may hold anything finite on the other; what is not finite is seen in the score."""
    trainer = trainer_of(tiny_base("bert"), uneven(), forward)
    start = start_of(trainer)
    inputs = {m: torch.cat([A, torch.randn(2, A.shape[1])]) for m, A in start.adapter.input.items()}
    outputs = {m: torch.cat([B, torch.zeros(B.shape[0], 2)], dim=1) for m, B in start.adapter.output.items()}
    wider = replace(start, adapter=replace(start.adapter, input=inputs, output=outputs))
    (plain,) = trainer.score([ScoreJob("c3", start)])
    assert trainer.score([ScoreJob("c3", wider)]) == [plain]
    nothing = {m: torch.zeros_like(B) for m, B in start.adapter.output.items()}
    fresh, other = (
        Start(start.adapter.with_side("input", side).with_side("output", nothing))
        for side in (start.adapter.input, {m: 2 * A for m, A in start.adapter.input.items()})
    )
    assert trainer.score([ScoreJob("c3", fresh)]) == trainer.score([ScoreJob("c3", other)])
    first = next(iter(inputs))
    inputs[first] = inputs[first].clone()
    inputs[first][-1, 0] = torch.inf
    (broken,) = trainer.score([ScoreJob("c3", wider)])
    assert not numpy.isfinite(broken.sums["loss"])


@pytest.mark.parametrize("count_labels", [False, True])
def test_what_a_client_tells_is_what_it_told_before(tiny_base, count_labels):
    """The server's counts by label stay out of a client's score unless the config lets clients tell them."""
    trainer = trainer_of(tiny_base("bert"), uneven(), count_labels=count_labels)
    start = start_of(trainer)
    (score,) = trainer.score([ScoreJob("c3", start)])
    assert any(name.startswith("labelled.") for name in score.sums) == count_labels
    assert trainer.scoring.fault(score) is None
    (whole,) = trainer.score([ScoreJob(None, start)])
    assert sum(n for name, n in whole.sums.items() if name.startswith("labelled.")) == 40


def test_which_thread_comes_first_changes_no_bit(tiny_base):
    base, scores = tiny_base("bert"), []
    for order in (list(uneven()), list(uneven())[::-1]):
        trainer = trainer_of(base, uneven())
        start = start_of(trainer)
        with ThreadPoolExecutor(3) as pool:
            told = pool.map(lambda client, t=trainer, s=start: t.score([ScoreJob(client, copied(s))]), order)
            parts = dict(zip(order, told, strict=True))
        scores.append((trainer.score([ScoreJob(None, start)]), dict(sorted(parts.items()))))
    assert scores[0] == scores[1]


@given(st.lists(st.lists(st.integers(0, 19), unique=True), max_size=5))
def test_every_example_of_the_test_set_is_in_one_part(parts):
    """Also where clients' parts overlap, as they may where a caller deals them."""
    none = numpy.zeros(0, dtype=numpy.int64)
    owned = {f"c{k}": Owned(none, none, numpy.array(part, dtype=numpy.int64)) for k, part in enumerate(parts)}
    found = [int(example) for _, examples in server_parts(owned, "test", 20) for example in examples]
    assert sorted(found) == list(range(20))


def test_no_score_is_found_for_who_was_not_scored():
    parts = ScoredParts()
    parts.keep("c0", "test", b"model", score := object())
    assert parts.find("c0", "test", b"model") is score
    assert parts.find("c0", "validation", b"model") is None
    assert parts.find("c1", "test", b"model") is None
    assert parts.find("c0", "test", b"other") is None
    assert parts.find(None, "test", b"model") is None


def evaluated(path, workers=None):
    """The records of a run, and the tokens that its evaluations passed through the model, by round."""
    simulation = build(read_config(path), workers=workers)
    simulation.trainer._forward = counting = Counting(simulation.trainer._forward)
    records, tokens = [], []
    for _, record in federate(simulation.federation, begin(simulation.federation, simulation.head)):
        records.append({name: value for name, value in record.to_dict().items() if name != "seconds"})
        tokens.append(counting.take())
    return simulation, records, tokens


@pytest.mark.parametrize(
    ("method", "others", "passes"),
    [
        ("fedit", {}, 1),
        ("lora-a2", {}, 1),
        ("fedsa", {}, 1),
        ("fedit", {"run": {"wire": "bfloat16"}}, 2),
        ("fedit", {"adapter": {"head": "frozen"}}, 1),
        ("fedit", {"evaluate": {"part": "validation"}, "split": {"validation": 0.25}}, 1),
        ("fedit", {"split": {"permuted": True}}, 1),
        ("flora", {}, 1),  # clients' factors differ, and add nothing yet
        ("central", {}, 1),
    ],
)
def test_an_evaluation_passes_the_test_set_through_the_model_once(config, method, others, passes):
    """One pass for the global score and the personal ones together; two where the wire rounds clients' models."""
    path = config(method={"name": method}, **others)
    simulation, records, tokens = evaluated(path)
    part = others.get("evaluate", {}).get("part", "test")
    owned = simulation.split.clients.values()
    lengths = simulation.trainer._test.lengths if part == "test" else simulation.trainer._train.lengths
    whole = sum(int(lengths[own.test if part == "test" else own.validation].sum()) for own in owned)
    assert tokens == [passes * whole] * len(records)


@pytest.mark.parametrize("method", ["fedit", "fedsa", "hetlora"])
def test_records_are_the_same_for_any_number_of_workers(config, method):
    ranks = {"clients": {"ranks": [1, 2]}} if method == "hetlora" else {}
    path = config(method={"name": method}, split={"clients": 5}, **ranks)
    assert evaluated(path, workers=1)[1:] == evaluated(path, workers=3)[1:]


def test_a_dry_run_counts_the_examples_that_a_run_scores(config):
    simulation = build(read_config(config()))
    examples = len(simulation.trainer._test)
    assert [cost.scored for cost in dry_run(simulation).rounds] == [examples, examples]
    rounded = build(read_config(config(run={"wire": "bfloat16"})))
    assert [cost.scored for cost in dry_run(rounded).rounds] == [2 * examples, 2 * examples]
