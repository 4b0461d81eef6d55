# SPDX-License-Identifier: Apache-2.0
"""What a round leaves behind: records of clients and of the round, and the scores that they add up to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import UnionType
from typing import Any, Literal

from fedlora.core.metrics import Score, Scoring
from fedlora.core.payload import Payload
from fedlora.core.rounds import Client, Traffic
from fedlora.federation.over_clients import Spread, spread, spread_lines

Outcome = Literal["accepted", "idle", "failed"]
"""What became of a client in a round: its update counts, it was only scored, or it sent nothing that counts."""


@dataclass(frozen=True, slots=True, eq=False)
class ClientRecord:
    """One client in one round."""

    round: int
    client: str
    examples: int
    rank: int
    outcome: Outcome
    reason: str = ""
    """Where it failed: one sentence, for people."""
    traffic: Traffic = field(default_factory=Traffic)
    parameters_up: int = 0
    """Adapter scalars that went up."""
    head_bytes_down: int = 0
    """The part of the traffic that was head, not adapter."""
    head_bytes_up: int = 0
    steps: int = 0
    """Optimiser steps, of all fits that the method asked for."""
    loss: float | None = None
    """Mean training loss."""
    score: Score | None = None
    """On the client's test part, after the round."""
    notes: Payload = field(default_factory=dict)
    counted_as: float | None = None
    """Its weight where it is not the number of its examples."""

    @property
    def status(self) -> str:
        """As `clients.jsonl` has it: `accepted`, `idle`, or why there is no update."""
        return self.reason if self.outcome == "failed" else self.outcome

    def failed(self, reason: str) -> "ClientRecord":
        """The same client, whose update does not count."""
        return replace(self, outcome="failed", reason=reason)


def blank_record(client: Client, round: int, outcome: Outcome) -> ClientRecord:
    """The record of a client before anything is known of its round."""
    return ClientRecord(round, client.id, client.examples, client.rank, outcome, counted_as=client.counted_as)


@dataclass(frozen=True, slots=True)
class Personal:
    """Every client's score of its model, summed up over the clients that have a test part.

    `mean` to `worst_tenth` are of the headline metric.
    """

    mean: float
    weighted_mean: float
    """By the size of the test parts: the score over all test examples."""
    standard_deviation: float
    worst_tenth: float
    """The mean of the worst ceil(K / 10)."""
    count: int
    """K, the clients with a test part."""
    empty: int
    """Clients without one."""
    others: Mapping[str, float] = field(default_factory=dict)
    """Every other metric by name, over all test examples."""

    def line(self) -> dict[str, float]:
        """All of it by name, as `rounds.jsonl` has it."""
        return {
            "mean": self.mean,
            "weighted_mean": self.weighted_mean,
            "standard_deviation": self.standard_deviation,
            "worst_tenth": self.worst_tenth,
            **self.others,
            "count": self.count,
            "empty": self.empty,
        }


def personal(scores: Sequence[Score | None], scoring: Scoring) -> Personal | None:
    """Sum up the scores of all clients; None where no client has a test part."""
    headline = scoring.headline
    of_headline = spread(scores, headline)
    if of_headline is None:
        return None
    told = [score for score in scores if score is not None and headline.of(score) is not None]
    whole = scoring.values(sum(told, Score(0)))
    return Personal(
        mean=of_headline.mean,
        weighted_mean=whole.pop(headline.name),
        standard_deviation=of_headline.standard_deviation,
        worst_tenth=of_headline.worst_tenth,
        count=len(told),
        empty=len(scores) - len(told),
        others=whole,
    )


@dataclass(frozen=True, slots=True, eq=False)
class RoundRecord:
    """One round."""

    round: int
    clients: tuple[ClientRecord, ...]
    """In client order: those that took part, and all that were evaluated."""
    evaluated: bool
    scoring: Scoring
    """The metrics of the run's task."""
    global_score: Score | None = None
    personal: Personal | None = None
    over_clients: Mapping[str, Spread] = field(default_factory=dict)
    """By metric, the spread of the clients' scores, where clients are natural ones."""
    unseen: Mapping[str, Spread] = field(default_factory=dict)
    """By metric, the spread of the scores of clients that never train."""
    evaluation_bytes: int = 0
    """Traffic of evaluation, which is measurement and no part of a method's cost."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall times: `train`, `evaluate`."""

    def __repr__(self) -> str:
        loss = f", loss {self.loss:.3f}" if self.loss is not None else ""
        scores = {"global": self.global_metrics.get(self.scoring.headline.name)}
        scores["personal"] = self.personal.mean if self.personal is not None else None
        headline = self.scoring.headline
        told = [f", {whose} {headline.name} {headline.words(n)}" for whose, n in scores.items() if n is not None]
        return f"RoundRecord(round {self.round}: {self.accepted} clients{loss}{''.join(told)})"

    def to_dict(self) -> dict[str, Any]:
        """The whole record as plain numbers, texts, lists and dicts: the lines of the run folder in one."""
        clients = [client_line(client, self.scoring) for client in self.clients]
        return {**round_line(self), "seconds": dict(self.seconds), "clients": clients}

    @property
    def global_metrics(self) -> dict[str, float]:
        """The global model's metrics by name; empty where there is no such model, or no examples to score it on."""
        return self.scoring.values(self.global_score)

    @property
    def accepted(self) -> int:
        """How many replies went into the aggregate."""
        return sum(client.outcome == "accepted" for client in self.clients)

    @property
    def loss(self) -> float | None:
        """Training loss, the mean over accepted clients weighted by their examples."""
        told = [(c.examples, c.loss) for c in self.clients if c.outcome == "accepted" and c.loss is not None]
        total = sum(examples for examples, _ in told)
        return sum(examples * loss for examples, loss in told) / total if total else None

    @property
    def traffic(self) -> Traffic:
        """Bytes of all clients together, evaluation left out."""
        each = [client.traffic for client in self.clients]
        return Traffic(sum(t.down for t in each), sum(t.up for t in each), sum(t.overhead for t in each))

    @property
    def parameters_up(self) -> int:
        """Adapter scalars of all clients together."""
        return sum(client.parameters_up for client in self.clients)

    @property
    def steps(self) -> int:
        """Optimiser steps of all clients together."""
        return sum(client.steps for client in self.clients)


def client_line(record: ClientRecord, scoring: Scoring) -> dict[str, object]:
    """A line of `clients.jsonl`; `score` is the headline metric."""
    return {
        "round": record.round,
        "client": record.client,
        "examples": record.examples,
        **({} if record.counted_as is None else {"weight": record.counted_as}),
        "rank": record.rank,
        "bytes_down": record.traffic.down,
        "bytes_up": record.traffic.up,
        "overhead_bytes": record.traffic.overhead,
        "head_bytes_down": record.head_bytes_down,
        "head_bytes_up": record.head_bytes_up,
        "parameters_up": record.parameters_up,
        "steps": record.steps,
        "loss": record.loss,
        "score": scoring.headline.of(record.score),
        "score_examples": record.score.examples if record.score else 0,
        "status": record.status,
        "notes": record.notes,
    }


def round_line(record: RoundRecord) -> dict[str, object]:
    """A line of `rounds.jsonl`."""
    return {
        "round": record.round,
        "participants": sum(client.outcome != "idle" for client in record.clients),
        "accepted": record.accepted,
        "loss": record.loss,
        "global": score_line(record.global_score, record.scoring),
        "personal": record.personal.line() if record.personal else None,
        "bytes_down": record.traffic.down,
        "bytes_up": record.traffic.up,
        "overhead_bytes": record.traffic.overhead,
        "head_bytes_down": sum(client.head_bytes_down for client in record.clients),
        "head_bytes_up": sum(client.head_bytes_up for client in record.clients),
        "parameters_up": record.parameters_up,
        "steps": record.steps,
        "evaluation_bytes": record.evaluation_bytes,
        **{name: spread_lines(told) for name, told in spreads_of(record).items()},
    }


def spreads_of(record: RoundRecord) -> dict[str, Mapping[str, Spread]]:
    """The spreads that a round tells, by the names that they have in records."""
    named = {"over_clients": record.over_clients, "unseen_clients": record.unseen}
    return {name: told for name, told in named.items() if told}


ROUND_LINE: Mapping[str, type | UnionType] = {
    "round": int,
    "global": dict | None,
    "personal": dict | None,
    "bytes_down": int,
    "bytes_up": int,
    "overhead_bytes": int,
    "head_bytes_down": int,
    "head_bytes_up": int,
    "parameters_up": int,
    "evaluation_bytes": int,
}
"""What of a line of `rounds.jsonl` is needed to go on, and for the summary."""


def timing_line(record: RoundRecord) -> dict[str, object]:
    """A line of `timings.jsonl`, in seconds."""
    return {"round": record.round, **record.seconds}


def score_line(score: Score | None, scoring: Scoring) -> dict[str, float] | None:
    """A score's metrics by name, and its examples; None where there is none."""
    if score is None or not score.examples:
        return None
    return {**scoring.values(score), "examples": score.examples}
