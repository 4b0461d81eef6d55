# SPDX-License-Identifier: Apache-2.0
"""What the final models of a run answered to the examples that they were scored on, and how sure those scores are."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedlora.app.build.simulation import Experiment, Simulation
from fedlora.app.build.trainer import answer_metrics
from fedlora.app.run.results import client_model, same_model
from fedlora.core.adapter import Start
from fedlora.core.metrics import Sums
from fedlora.core.rounds import ScoreJob
from fedlora.federation.files import encoded_lines, write_whole
from fedlora.federation.server import Server, global_model, newcomer_model
from fedlora.training.answers import Answer
from fedlora.training.loop import ModelTrainer
from fedlora.training.metrics.answer import AnswerMetric
from fedlora.training.metrics.choice import Choice, most_likely, most_likely_per_byte
from fedlora.training.metrics.intervals import Interval, mean_bootstrap

GENERATIONS = "generations.jsonl"


@dataclass(frozen=True, slots=True, eq=False)
class Generations:
    """The answers of a run's final models."""

    of_global: Sequence[Answer]
    """Empty where there is no global model, or where the server has no examples."""
    of_clients: Mapping[str, Sequence[Answer]]
    """Client -> its model's answers; of clients that are elsewhere none are known."""
    personal: frozenset[str]
    """The clients whose model is not the global one."""
    of_unseen: Mapping[str, Sequence[Answer]]
    """Client that never trains -> the answers to its examples of what a newcomer gets."""

    def lines(self, part: str) -> Iterator[Mapping[str, object]]:
        """The contents of `generations.jsonl`: of the global model (client null), of the personal ones, and of what
        clients get that never train."""
        for client, answers in [(None, self.of_global), *sorted(self.of_clients.items())]:
            if client is None or client in self.personal:
                yield from (_line(client, part, answer) for answer in answers)
        for client, answers in sorted(self.of_unseen.items()):
            yield from (_line(client, "unseen", answer) for answer in answers)


def final_generations(experiment: Experiment, server: Server) -> Generations | None:
    """The answers of the final models, those of the last evaluation where they are still known; None: no answers are
    scored."""
    trainer, federation = experiment.federation.scorer, experiment.federation
    if not experiment.config.evaluate.metrics or not isinstance(trainer, ModelTrainer):
        return None
    part, model = experiment.config.evaluate.part, global_model(federation, server)
    of_global = [] if model is None else trainer.answers(ScoreJob(None, model, part))
    if not isinstance(experiment, Simulation):
        return Generations(of_global, {}, frozenset(), {})
    models = _client_models(experiment, server)
    of_clients = {client: trainer.answers(ScoreJob(client, theirs, part)) for client, theirs in models.items()}
    personal = {c for c, theirs in models.items() if model is None or not same_model(model, theirs, experiment.spec)}
    unseen = federation.unseen if part == "test" else ()
    first = newcomer_model(federation, server) if unseen else None
    of_unseen = {client: trainer.answers(ScoreJob(client, first, "unseen")) for client in unseen if first is not None}
    return Generations(of_global, of_clients, frozenset(personal), of_unseen)


def _client_models(simulation: Simulation, server: Server) -> dict[str, Start]:
    roster = sorted(simulation.federation.transport.roster(), key=lambda member: member.id)
    return {member.id: client_model(simulation, server, member) for member in roster}


Ends = tuple[float, float]


def intervals(experiment: Experiment, found: Generations) -> dict[str, dict[str, Ends | dict[str, Ends]]]:
    """The ends of the 95 % interval of every score of answers, under the names that the summary has for the scores.

    `global`: by metric; `personal`: of the headline its mean over clients, of other metrics the value over all
    clients' examples together; of natural clients `over_clients` and `unseen_clients`: by metric, `mean` and
    `weighted_mean`. An interval that too few examples tell is left out.
    """
    metrics, seed = answer_metrics(experiment.config), experiment.config.run.seed
    clients, unseen = (_sums(of) for of in (found.of_clients, found.of_unseen))
    natural = experiment.federation.plan.told == "every metric"
    ends: dict[str, dict[str, Ends | dict[str, Ends]]] = {}
    for number, metric in enumerate(metrics):
        name, kind = metric.metric.name, _KINDS[1 if number else 0]
        _put(ends, "global", name, _ends(metric.interval([answer.sums for answer in found.of_global], seed)))
        told = _over(metric, clients, seed, _KINDS if natural else (kind,))
        _put(ends, "personal", name, told.get(kind))
        if natural:
            _put(ends, "over_clients", name, told)
        _put(ends, "unseen_clients", name, _over(metric, unseen, seed, _KINDS))
    return ends


_KINDS: Final = ("mean", "weighted_mean")
"""A metric's mean over clients, which the summary tells of the headline, and its value over all their examples."""


def _sums(answers: Mapping[str, Sequence[Answer]]) -> list[list[Sums]]:
    """Of each client with examples, the sums of each."""
    return [[answer.sums for answer in theirs] for theirs in answers.values() if theirs]


def _over(metric: AnswerMetric, clients: Sequence[Sequence[Sums]], seed: int, kinds: Sequence[str]) -> dict[str, Ends]:
    """The ends of some kinds of a metric's value over clients."""
    found = {}
    for kind in kinds:
        every = [one for sums in clients for one in sums]
        ends = _ends(mean_bootstrap(metric.metric, clients, seed) if kind == "mean" else metric.interval(every, seed))
        if ends is not None:
            found[kind] = ends
    return found


def _ends(interval: Interval | None) -> Ends | None:
    return None if interval is None else (interval.low, interval.high)


def _put(
    ends: dict[str, dict[str, Ends | dict[str, Ends]]], part: str, name: str, value: Ends | dict[str, Ends] | None
) -> None:
    """Take down what there is."""
    if value:
        ends.setdefault(part, {})[name] = value


def write_generations(experiment: Experiment, found: Generations, folder: Path) -> None:
    """Write `generations.jsonl`, a line an answer."""
    write_whole(folder / GENERATIONS, encoded_lines(*found.lines(experiment.config.evaluate.part)))


def _line(client: str | None, part: str, answer: Answer) -> dict[str, object]:
    return {
        "client": client,
        "part": part,
        "example": answer.example,
        "prompt": answer.prompt,
        **({} if answer.text is None else {"generated": answer.text}),
        "answers": list(answer.right_answers),
        **_choice(answer.choices),
        "sums": dict(answer.sums),
    }


def _choice(choices: Sequence[Choice]) -> dict[str, object]:
    """The texts to choose among with their likelihoods, and which were chosen; empty where there was no choice."""
    if not choices:
        return {}
    by_sum, by_byte = most_likely(choices), most_likely_per_byte(choices)
    return {
        "choices": [{"text": choice.text, "log_likelihood": choice.log_likelihood} for choice in choices],
        "chosen": by_sum.text if by_sum else None,
        "chosen_per_byte": by_byte.text if by_byte else None,
    }
