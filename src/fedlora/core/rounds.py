# SPDX-License-Identifier: Apache-2.0
"""The nouns of a round, all frozen values, and the protocol of a trainer.

Rounds count from 1. One round: the server sends every chosen client an `Order`; the client's half of the
method asks for training with a `Fit` and gets a `Fitted`; the client answers with a `Reply`, or a
`Failure` says why there is none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import Tensor

from fedlora.core.adapter import AdapterSpec, Sides, Start, Tensors
from fedlora.core.kinds import Side
from fedlora.core.metrics import Score, Scoring
from fedlora.core.payload import Payload, branch, integer_at, tensors_at
from fedlora.core.penalties import Penalty
from fedlora.core.schema import ReplySchema

TestPart = Literal["test", "validation"]
ScorePart = TestPart | Literal["unseen"]
"""What a model may be scored on; unseen: all examples of a client that never trains."""
FailureKind = Literal["error", "diverged", "state lost", "refused", "no answer"]
"""Why a client gave no update.

- error: an exception at the client, out of memory included;
- diverged: its loss is not a finite number;
- state lost: the order builds on what the client no longer holds, so the next one brings everything;
- refused: an answer came, and it is not what was ordered;
- no answer: nothing came: the client is not connected, too late or silent.
"""


@dataclass(frozen=True, slots=True)
class Client:
    """A member of the federation, as the server knows it."""

    id: str
    examples: int
    """n_k, the number of training examples."""
    rank: int
    """Its rank or budget, in slots per module."""
    last_seen_round: int | None = None
    """The last round whose content the server knows the client holds; None: it holds nothing."""
    counted_as: float | None = None
    """Its weight where it is not the number of its examples."""

    @property
    def weight(self) -> float:
        """What it counts as in every weighted mean over clients: w_k is this over the sum of all accepted."""
        return float(self.examples) if self.counted_as is None else self.counted_as


@dataclass(frozen=True, slots=True)
class Duration:
    """How long to train: so many epochs, or so many optimiser steps. One of the two."""

    epochs: int | None = None
    steps: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """A request for training."""

    start: Start
    sides: Sides
    """Which sides train. Trainable dense parts train whatever the sides."""
    mask: Mapping[str, Tensor] | None = None
    """Per module (r,) which slots of the trained sides may move; all others stay exactly where they are:
    gradient, moments and weight decay are masked. None: all may."""
    duration: Duration | None = None
    """None: what the run's config says."""
    probe: bool = False
    """A rehearsal: it draws its own batches and does not advance the learning-rate schedule."""
    penalties: tuple[Penalty, ...] = ()
    """What is added to the loss."""
    measure: Literal["nothing", "gradient"] = "nothing"
    """What to keep of the training besides its end: the mean gradient of the sides that train."""
    score_on: TestPart | None = None
    """Score the trained adapter on this part of the client's data."""


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """The answer to a `Fit`."""

    start: Start
    """The trained adapter, and the merged update that it was trained on."""
    steps: int
    loss: float
    """Mean training loss over the examples seen, penalties left out."""
    gradient: Mapping[Side, Tensors] = field(default_factory=dict)
    """Of each side that trained, the loss's gradient averaged over the steps, where it was asked for."""
    score: float | None = None
    """Where it was asked for, the task's headline metric, so turned that more is better."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What an exchange with one client cost, in bytes."""

    down: int = 0
    """The encoded payload that went to the client."""
    up: int = 0
    """The encoded payload that came back."""
    overhead: int = 0
    """Everything else: the envelopes, and the transport's framing."""


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """What the server asks of one client. Only `payload` holds tensors."""

    kind: Literal["train", "evaluate"]
    round: int
    client: Client
    payload: Payload
    part: TestPart = "test"
    """Which part of the client's data to evaluate on."""
    schema: ReplySchema | None = None
    """What the answer must keep to. It stays with the server; None: the client has it from elsewhere."""


@dataclass(frozen=True, slots=True, eq=False)
class Reply:
    """A client's answer to one order."""

    client: str
    round: int
    payload: Payload = field(default_factory=dict)
    steps: int = 0
    loss: float | None = None
    score: Score | None = None
    notes: Payload = field(default_factory=dict)
    """What the round's record should tell of this client: plain scalars and lists."""
    traffic: Traffic = field(default_factory=Traffic)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no reply."""

    client: str
    round: int
    reason: str
    """One sentence, for people; what the program goes by is the kind."""
    kind: FailureKind = "error"
    traffic: Traffic = field(default_factory=Traffic)


@dataclass(frozen=True, slots=True, eq=False)
class ClientState:
    """What a client keeps from one round to its next."""

    round: int
    """The round that made it."""
    kept: Payload
    """Whatever the method's client half wants back."""
    head: Tensors = field(default_factory=dict)
    """The client's head, where heads are private."""
    stages: Payload = field(default_factory=dict)
    """Place in the chain -> what that stage's client half wants back."""

    def to_payload(self) -> Payload:
        """The client state as a tree that survives to bytes and back."""
        return {"round": self.round, "kept": self.kept, "head": self.head, "stages": self.stages}

    @staticmethod
    def from_payload(payload: Payload) -> "ClientState":
        """The inverse of `to_payload`."""
        head, stages = tensors_at(payload, "head"), branch(payload, "stages")
        return ClientState(integer_at(payload, "round"), branch(payload, "kept"), head, stages)


@dataclass(frozen=True, slots=True, eq=False)
class FitJob:
    """One client's `Fit`, for a trainer."""

    client: str
    round: int
    fit: Fit


@dataclass(frozen=True, slots=True, eq=False)
class ScoreJob:
    """One model to score: on a client's part, or on the server's test set (client None)."""

    client: str | None
    start: Start
    part: ScorePart = "test"


class Trainer(Protocol):
    """What turns an adapter into a better one. Blind to methods; owns base model and data.

    Jobs of one call belong to different clients and do not see each other. An error of one job is that
    job's `Failure`.
    """

    @property
    def spec(self) -> AdapterSpec:
        """The adapter that it trains."""
        ...

    @property
    def head(self) -> Tensors:
        """The base's dense parts, as every run starts with them."""
        ...

    @property
    def scoring(self) -> Scoring:
        """The metrics of its task."""
        ...

    def fit(self, jobs: Sequence[FitJob]) -> Sequence[Fitted | Failure]:
        """Train; answers in the order of the jobs."""
        ...

    def score(self, jobs: Sequence[ScoreJob]) -> Sequence[Score | Failure]:
        """Evaluate; answers in the order of the jobs."""
        ...
