# SPDX-License-Identifier: Apache-2.0
"""The contract of a method: one object with a server half and a client half, pure over frozen values.

A method is a frozen dataclass whose fields are its hyperparameters. Server and clients build the same
object from the same config; only payloads travel between the halves. Where nothing is overridden, a
method dispatches the first slots of both sides, trains both, uploads what it trained and keeps nothing,
so that a new method usually states its facts and its `aggregate`.

Heads and other dense parts are no business of a method: the loop and the client driver treat them once
for all (see `head_mode`).
"""

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, cast

from fedlora.core.adapter import (
    BOTH,
    NEITHER,
    SIDES,
    Adapter,
    AdapterSpec,
    HeadMode,
    Sides,
    Start,
    Tensors,
    fresh_adapter,
)
from fedlora.core.kinds import Kind, Side
from fedlora.core.lowrank import LowRank
from fedlora.core.payload import Payload, branch, tensors_at
from fedlora.core.rounds import Client, Fit, Fitted, Upload
from fedlora.core.schema import UploadSchema, whole_sides
from fedlora.errors import MethodError
from fedlora.methods.sides import complete, send, sides_of

Exact = Literal["update", "before truncation", "no", "none"]


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What the server carries from round to round."""

    adapter: Adapter
    """The global factors; a private side stays as it was at the start."""
    extra: Payload = field(default_factory=dict)
    """Whatever else a method needs: versions, ranks, moments."""

    def to_payload(self) -> Payload:
        """The state as a tree that survives to bytes and back."""
        own = self.adapter
        return {"kind": own.kind, "input": own.input, "output": own.output, "extra": self.extra}

    @staticmethod
    def from_payload(payload: Payload) -> "State":
        """The inverse of `to_payload`."""
        kind = cast(Kind, payload.get("kind"))
        adapter = Adapter(tensors_at(payload, "input"), tensors_at(payload, "output"), kind=kind)
        return State(adapter, branch(payload, "extra"))


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """The end of a client's half of a round."""

    payload: Payload
    """What goes up."""
    kept: Payload
    """What the client wants back in its next round."""
    notes: Payload = field(default_factory=dict)
    """What the round's record should tell."""


Programme = Generator[Fit, Fitted, Outcome]
"""A client's half of a round: it yields the training that it wants and is sent the result."""


@dataclass(frozen=True)
class Method(ABC):
    """What every method is. The place of each function is its first word."""

    name: ClassVar[str]
    mixed_ranks: ClassVar[bool] = False
    """Whether clients may have different ranks or budgets."""
    exact: ClassVar[Exact] = "no"
    """`update`: effective_new - effective_old = sum_k w_k (trained_k - start_k). `before truncation`: the
    result is the best approximation of sum_k w_k s trained_k. `none`: there is no global model."""
    private: ClassVar[Sides] = NEITHER
    """Sides that a client trains and keeps: they never travel up."""
    kinds: ClassVar[frozenset[Kind]] = frozenset({"lora"})
    """Which kinds of adapter it takes."""
    centralized: ClassVar[bool] = False
    """One client holds everyone's data."""
    needs_client_state: ClassVar[bool] = False
    """Whether a client must still hold what it kept in its last round (always, with private sides)."""
    refactorizes: ClassVar[bool] = False
    """Whether the server makes new factors each round, so that a slot is not the same slot afterwards."""
    supports_server_optimizer: ClassVar[bool] = True
    """Whether a global factor is the same factor in the next round, moved by an average; a server optimiser
    needs that."""
    common_start: ClassVar[bool] = True
    """Whether the server knows what a client's training started from."""
    sends_changes: ClassVar[bool] = False
    """Whether uploads are changes; else they are values."""
    idempotence_tolerance: ClassVar[float | None] = None
    """Declared: clients that upload the same get back what they uploaded, as effective deltas, within
    this relative tolerance."""
    lr_b_ratio: ClassVar[float] = 1.0
    """How much faster B learns than A where the config does not say."""

    # ------------------------------------------------------------------------------------------ server

    def check_federation(self, spec: AdapterSpec, clients: Sequence[Client]) -> None:
        """Server, before round 1: refuse a federation that this method cannot run.

        Raises:
            MethodError: with a sentence that says what to change.
        """
        if spec.kind not in self.kinds:
            raise MethodError(
                f"adapter.kind is {spec.kind!r} but {self.name} takes {', '.join(sorted(self.kinds))}: "
                f"choose one of these, or another method."
            )
        for client in clients:
            if client.rank != spec.rank and spec.kind != "lora":
                raise MethodError(
                    f"Client {client.id} has rank {client.rank}, but a {spec.kind} adapter has one rank for all "
                    f"({spec.rank}): leave clients.ranks out, or set adapter.kind = 'lora'."
                )
            if client.rank != spec.rank and not self.mixed_ranks:
                raise MethodError(
                    f"Client {client.id} has rank {client.rank} but {self.name} takes one rank for all "
                    f"({spec.rank}): choose a method that mixes ranks (fedlora methods lists them), or leave "
                    f"clients.ranks out."
                )

    def init(self, spec: AdapterSpec, seed: int) -> State:
        """Server: the state before round 1; by default a fresh adapter of the largest rank."""
        return State(fresh_adapter(spec, spec.rank, seed))

    def rank(self, state: State, client: Client) -> int:
        """Server: the rank or budget that a client has now."""
        return client.rank

    def full_participation(self, state: State, round: int) -> bool:
        """Server: whether this round asks all clients, however few a round usually has."""
        return False

    def dispatched_ranks(self, state: State, client: Client) -> Mapping[str, int]:
        """Server: how many slots of each module are sent to the client."""
        return dict.fromkeys(state.adapter.output, self.rank(state, client))

    def down(self, round: int) -> Sides:
        """Server: the sides that go, in this round, to a client that missed nothing."""
        return BOTH - self.private_sides()

    def dispatch(self, state: State, client: Client, round: int) -> Payload:
        """Server: what a client gets at the start of a round.

        By default the first slots of every shared side. A private side is sent at first contact only, as
        the client's starting point. A side of zeros is not sent: zeros are implied.
        """
        sides = BOTH if client.last_seen_round is None else BOTH - self.private_sides()
        return send(state.adapter, sides, self.dispatched_ranks(state, client), implied_zeros=True)

    def upload_schema(self, state: State, client: Client, spec: AdapterSpec, round: int) -> UploadSchema:
        """Server: what the client's upload of this round may hold; anything else is refused in validation.

        By default the sides that train and are shared, whole, with as many slots as the client holds.
        """
        return UploadSchema(
            (whole_sides(spec, self.trains(round) - self.private_sides(), self.dispatched_ranks(state, client)),)
        )

    @abstractmethod
    def aggregate(self, state: State, uploads: Iterable[Upload], round: int) -> State:
        """Server: the next state.

        Args:
            state: the state that this round was dispatched from.
            uploads: the accepted uploads in client order, at least one; can be gone through once.
            round: the global round, from 1.

        Raises:
            PayloadError: an upload is not what `upload_schema` said; one that came through validation is.
        """

    def result(self, state: State) -> Start | None:
        """Server: the global model; None where there is none."""
        return None if self.private_sides() else Start(state.adapter)

    # ------------------------------------------------------------------------------------------ client

    def trains(self, round: int) -> Sides:
        """Client (and server): the sides that train in this round."""
        return BOTH

    def slots_up(self, client: Client, spec: AdapterSpec) -> int | None:
        """Client (and server): the most slots of a side, over all modules, that go up; None: no such bound."""
        return client.rank * len(spec.shapes)

    def receive(self, payload: Payload, kept: Payload, client: Client, spec: AdapterSpec) -> Start:
        """Client: the starting point. A side is taken from the payload, else from what was kept, else zero;
        a private side from what was kept first.

        Raises:
            PayloadError: the payload does not fit this adapter.
        """
        sent = {side: tensors_at(payload, side) for side in SIDES}
        own = {side: tensors_at(kept, side) for side in SIDES}
        private = self.private_sides()
        found = {s: own[s] or sent[s] if s in private else sent[s] or own[s] for s in SIDES}
        return Start(complete(found, spec))

    def upload(self, start: Start, trained: Start, kept: Payload, round: int) -> tuple[Payload, Payload]:
        """Client: what goes up, and what to keep. By default the trained sides; private ones are kept."""
        private = self.private_sides()
        return sides_of(trained.adapter, self.trains(round) - private), sides_of(trained.adapter, private)

    def client(self, payload: Payload, kept: Payload, client: Client, spec: AdapterSpec, round: int) -> Programme:
        """Client: the whole half of a round, as a generator that asks for training.

        Only an unusual local programme overrides this; the default composes `receive`, `trains` and
        `upload`.
        """
        start = self.receive(payload, kept, client, spec)
        fitted = yield Fit(start, self.trains(round))
        up, keep = self.upload(start, fitted.start, kept, round)
        return Outcome(up, keep)

    # ------------------------------------------------------------------------------------------- facts

    def private_sides(self) -> Sides:
        """The class fact `private`, as these hyperparameters leave it."""
        return self.private

    def needs_validation(self) -> bool:
        """Whether clients score themselves on a validation part of their own."""
        return False

    def example_weighted(self) -> bool:
        """Whether only the ratio of examples counts; False where clients count by something else."""
        return True

    def exactness(self) -> Exact:
        """The class fact `exact`, as these hyperparameters leave it."""
        return self.exact

    def keeps_client_state(self, spec: AdapterSpec) -> bool:
        """Whether a client of this federation keeps anything from round to round."""
        return self.needs_client_state or bool(self.private_sides()) or self.head_mode(spec) == "private"

    def head_mode(self, spec: AdapterSpec) -> HeadMode:
        """What becomes of the dense parts. Where nothing is shared, a shared head is not either."""
        return "private" if spec.head == "shared" and self.private_sides() == BOTH else spec.head


def move_to(state: State, sides: Mapping[Side, Tensors]) -> State:
    """The state with some sides of its adapter replaced."""
    adapter = state.adapter
    for side, tensors in sides.items():
        adapter = adapter.with_side(side, tensors)
    return replace(state, adapter=adapter)


def refactorized(state: State, pairs: Mapping[str, LowRank]) -> State:
    """The state with new factors for every module, in float32."""
    inputs = {module: pair.A.float() for module, pair in pairs.items()}
    return move_to(state, {"input": inputs, "output": {module: pair.B.float() for module, pair in pairs.items()}})
