# SPDX-License-Identifier: Apache-2.0
"""What a round leaves behind: records of clients and of the round, and the scores that they add up to."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from fedlora.core.payload import Payload
from fedlora.core.rounds import Client, Score, Traffic


@dataclass(frozen=True, slots=True, eq=False)
class ClientRecord:
    """One client in one round."""

    round: int
    client: str
    examples: int
    rank: int
    status: str
    """`accepted`, `idle` (only evaluated), or why there was no reply."""
    traffic: Traffic = field(default_factory=Traffic)
    parameters_up: int = 0
    """Adapter scalars that went up."""
    head_bytes_down: int = 0
    """The part of the traffic that was head, not adapter."""
    head_bytes_up: int = 0
    loss: float | None = None
    """Mean training loss."""
    score: Score | None = None
    """On the client's own test part, after the round."""
    notes: Payload = field(default_factory=dict)


def blank_record(client: Client, round: int, status: str) -> ClientRecord:
    """The record of a client before anything is known of its round."""
    return ClientRecord(round, client.id, client.examples, client.rank, status)


@dataclass(frozen=True, slots=True)
class Personal:
    """Every client's own score, summed up over the clients that have a test part."""

    mean: float
    weighted_mean: float
    """By the size of the test parts: the score over all test examples."""
    standard_deviation: float
    worst_tenth: float
    """The mean of the lowest ceil(K / 10)."""
    loss: float
    """Mean loss an example, over all test parts."""
    count: int
    """K, the clients with a test part."""
    empty: int
    """Clients without one."""


def personal(scores: Sequence[Score | None]) -> Personal | None:
    """Sum up accuracies; None where no client has a test part."""
    own = [score for score in scores if score is not None and score.examples]
    if not own:
        return None
    accuracies = sorted(score.correct / score.examples for score in own)
    mean = sum(accuracies) / len(own)
    worst = accuracies[: math.ceil(len(own) / 10)]
    return Personal(
        mean=mean,
        weighted_mean=sum(s.correct for s in own) / sum(s.examples for s in own),
        standard_deviation=math.sqrt(sum((a - mean) ** 2 for a in accuracies) / len(own)),
        worst_tenth=sum(worst) / len(worst),
        loss=sum(s.loss for s in own) / sum(s.examples for s in own),
        count=len(own),
        empty=len(scores) - len(own),
    )


@dataclass(frozen=True, slots=True, eq=False)
class RoundRecord:
    """One round."""

    round: int
    clients: tuple[ClientRecord, ...]
    """In client order: those that took part, and all that were evaluated."""
    evaluated: bool
    global_score: Score | None = None
    personal: Personal | None = None
    evaluation_bytes: int = 0
    """Traffic of evaluation, which is measurement and no part of a method's cost."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall times: `train`, `evaluate`."""

    @property
    def accepted(self) -> int:
        """How many replies went into the aggregate."""
        return sum(client.status == "accepted" for client in self.clients)

    @property
    def loss(self) -> float | None:
        """Training loss, the mean over accepted clients weighted by their examples."""
        own = [(c.examples, c.loss) for c in self.clients if c.status == "accepted" and c.loss is not None]
        total = sum(examples for examples, _ in own)
        return sum(examples * loss for examples, loss in own) / total if total else None

    @property
    def traffic(self) -> Traffic:
        """Bytes of all clients together, evaluation left out."""
        each = [client.traffic for client in self.clients]
        return Traffic(sum(t.down for t in each), sum(t.up for t in each), sum(t.overhead for t in each))

    @property
    def parameters_up(self) -> int:
        """Adapter scalars of all clients together."""
        return sum(client.parameters_up for client in self.clients)


def client_line(record: ClientRecord) -> dict[str, object]:
    """A line of `clients.jsonl`."""
    return {
        "round": record.round,
        "client": record.client,
        "examples": record.examples,
        "rank": record.rank,
        "bytes_down": record.traffic.down,
        "bytes_up": record.traffic.up,
        "overhead_bytes": record.traffic.overhead,
        "head_bytes_down": record.head_bytes_down,
        "head_bytes_up": record.head_bytes_up,
        "parameters_up": record.parameters_up,
        "loss": record.loss,
        "score": record.score.accuracy if record.score else None,
        "score_examples": record.score.examples if record.score else 0,
        "status": record.status,
        "notes": record.notes,
    }


def round_line(record: RoundRecord) -> dict[str, object]:
    """A line of `rounds.jsonl`."""
    return {
        "round": record.round,
        "participants": sum(client.status != "idle" for client in record.clients),
        "accepted": record.accepted,
        "loss": record.loss,
        "global": score_metrics(record.global_score),
        "personal": asdict(record.personal) if record.personal else None,
        "bytes_down": record.traffic.down,
        "bytes_up": record.traffic.up,
        "overhead_bytes": record.traffic.overhead,
        "head_bytes_down": sum(client.head_bytes_down for client in record.clients),
        "head_bytes_up": sum(client.head_bytes_up for client in record.clients),
        "parameters_up": record.parameters_up,
        "evaluation_bytes": record.evaluation_bytes,
    }


def timing_line(record: RoundRecord) -> dict[str, object]:
    """A line of `timings.jsonl`, in seconds."""
    return {"round": record.round, **record.seconds}


def score_metrics(score: Score | None) -> dict[str, float | int | None] | None:
    """A score as metrics; None where there is none."""
    if score is None or not score.examples:
        return None
    return {"accuracy": score.accuracy, "loss": score.mean_loss, "examples": score.examples}
