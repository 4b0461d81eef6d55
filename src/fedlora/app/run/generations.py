# SPDX-License-Identifier: Apache-2.0
"""What the final models of a run answered to the examples that they were scored on, and how sure those scores are."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedlora.app.build.simulation import Experiment, Simulation
from fedlora.app.build.trainer import answer_metrics
from fedlora.app.run.results import client_model, same_model
from fedlora.core.adapter import Start
from fedlora.core.rounds import ScoreJob
from fedlora.federation.files import encoded_lines, write_whole
from fedlora.federation.server import Server, global_model
from fedlora.training.answers import Answer
from fedlora.training.loop import ModelTrainer
from fedlora.training.metrics.choice import Choice, most_likely, most_likely_per_byte
from fedlora.training.metrics.intervals import mean_bootstrap

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

    def lines(self, part: str) -> Iterator[Mapping[str, object]]:
        """The contents of `generations.jsonl`: of the global model (client null), then of the personal ones."""
        for client, answers in [(None, self.of_global), *sorted(self.of_clients.items())]:
            if client is None or client in self.personal:
                yield from (_line(client, part, answer) for answer in answers)


def final_generations(experiment: Experiment, server: Server) -> Generations | None:
    """The answers of the final models, those of the last evaluation where they are still known; None: no answers are
    scored."""
    trainer = experiment.federation.scorer
    if not experiment.config.evaluate.metrics or not isinstance(trainer, ModelTrainer):
        return None
    part, model = experiment.config.evaluate.part, global_model(experiment.federation, server)
    of_global = [] if model is None else trainer.answers(ScoreJob(None, model, part))
    if not isinstance(experiment, Simulation):
        return Generations(of_global, {}, frozenset())
    models = _client_models(experiment, server)
    of_clients = {client: trainer.answers(ScoreJob(client, theirs, part)) for client, theirs in models.items()}
    personal = {c for c, theirs in models.items() if model is None or not same_model(model, theirs, experiment.spec)}
    return Generations(of_global, of_clients, frozenset(personal))


def _client_models(simulation: Simulation, server: Server) -> dict[str, Start]:
    roster = sorted(simulation.federation.transport.roster(), key=lambda member: member.id)
    return {member.id: client_model(simulation, server, member) for member in roster}


def intervals(experiment: Experiment, found: Generations) -> dict[str, dict[str, tuple[float, float]]]:
    """The ends of the 95 % interval of every score of answers: `global`, and `personal`, the mean over
    clients. An interval that too few examples tell is left out."""
    metrics, seed = answer_metrics(experiment.config), experiment.config.run.seed
    ends: dict[str, dict[str, tuple[float, float]]] = {"global": {}, "personal": {}}
    by_client = [[answer.sums for answer in answers] for answers in found.of_clients.values() if answers]
    for metric in metrics:
        whole = metric.interval([answer.sums for answer in found.of_global], seed)
        mean = mean_bootstrap(metric.metric, by_client, seed)
        for name, interval in (("global", whole), ("personal", mean)):
            if interval is not None:
                ends[name][metric.metric.name] = (interval.low, interval.high)
    return {name: values for name, values in ends.items() if values}


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
