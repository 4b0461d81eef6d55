# SPDX-License-Identifier: Apache-2.0
"""The contract of a method: one object with a server half and a client half, pure over frozen values.

A method is a frozen dataclass whose fields are its hyperparameters. Server and clients build the same
object from the same config; only payloads travel between the halves.

The client half ends in an `Update`. The server half adds updates up (`reducer`) and makes the next state of the
total (`advance`). Where nothing is overridden, a method dispatches the first slots of both sides, trains both,
uploads what it trained, adds it up slot by slot and keeps nothing at the client, so that a new method usually states
its facts and its `advance`.

The head is no business of a method's client half: the client driver puts it under every fit and into the update (see
`Facts.head_mode`). At the server it is reduced beside the slots, by the same kind of centre (`head_reducer`).
"""

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, cast

from fedlora.core.adapter import BOTH, SIDES, Adapter, AdapterSpec, Sides, Start, Tensors, fresh_adapter
from fedlora.core.kinds import Kind, Side
from fedlora.core.lowrank import LowRank
from fedlora.core.payload import Payload, branch, tensors_at
from fedlora.core.rounds import Client, Fit, Fitted
from fedlora.core.schema import UploadSchema, whole_sides
from fedlora.core.settings import wrong_number
from fedlora.core.slots import Part, whole
from fedlora.core.update import Update
from fedlora.errors import MethodError
from fedlora.methods.facts import Facts
from fedlora.methods.reducers import HeadMean, Reducer, SlotSum
from fedlora.methods.sides import complete, send, sides_of


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What the server carries from round to round."""

    adapter: Adapter
    """The global factors; a private side stays as it was at the start."""
    extra: Payload = field(default_factory=dict)
    """Whatever else a method needs: versions, ranks."""
    head: Tensors = field(default_factory=dict)
    """The shared head; before the first round, and where heads are not shared, the base's."""
    stages: Payload = field(default_factory=dict)
    """Place in the chain -> what that stage's server half keeps, such as moments."""

    def to_payload(self) -> Payload:
        """The state as a tree that survives to bytes and back."""
        sides: Payload = {"input": self.adapter.input, "output": self.adapter.output}
        return {"kind": self.adapter.kind, **sides, "extra": self.extra, "head": self.head, "stages": self.stages}

    @staticmethod
    def from_payload(payload: Payload) -> "State":
        """The inverse of `to_payload`."""
        kind = cast(Kind, payload.get("kind"))
        adapter = Adapter(tensors_at(payload, "input"), tensors_at(payload, "output"), kind=kind)
        return State(adapter, branch(payload, "extra"), tensors_at(payload, "head"), branch(payload, "stages"))


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """The end of a client's half of a round."""

    update: Update
    """What the client contributes; its head is added by the client driver."""
    kept: Payload = field(default_factory=dict)
    """What the client wants back in its next round."""
    notes: Payload = field(default_factory=dict)
    """What the round's record should tell."""


Programme = Generator[Fit, Fitted, Outcome]
"""A client's half of a round: it yields the training that it wants and is sent the result."""


@dataclass(frozen=True)
class Method(ABC):
    """What every method is. The place of each function is its first word."""

    name: ClassVar[str]

    def __post_init__(self) -> None:
        wrong = wrong_number(self)
        if wrong:
            raise MethodError(f"method.{wrong}")

    @property
    def facts(self) -> Facts:
        """What this object declares of itself, as its hyperparameters leave it."""
        return Facts()

    # ------------------------------------------------------------------------------------------ server

    def check_federation(self, spec: AdapterSpec, clients: Sequence[Client]) -> None:
        """Server, before round 1: refuse a federation that this method cannot run.

        Raises:
            MethodError: with a sentence that says what to change.
        """
        facts = self.facts
        if spec.kind not in facts.kinds:
            raise MethodError(
                f"adapter.kind is {spec.kind!r} but {self.name} takes {', '.join(sorted(facts.kinds))}: "
                f"choose one of these, or another method."
            )
        for client in clients:
            if client.rank != spec.rank and spec.kind != "lora":
                raise MethodError(
                    f"Client {client.id} has rank {client.rank}, but a {spec.kind} adapter has one rank for all "
                    f"({spec.rank}): leave clients.ranks out, or set adapter.kind = 'lora'."
                )
            if client.rank != spec.rank and not facts.mixed_ranks:
                raise MethodError(
                    f"Client {client.id} has rank {client.rank} but {self.name} takes one rank for all "
                    f"({spec.rank}): choose a method that mixes ranks (fedlora methods lists them), or leave "
                    f"clients.ranks out."
                )

    def init(self, spec: AdapterSpec, seed: int) -> State:
        """Server: the state before round 1; by default a fresh adapter of the largest rank."""
        return State(fresh_adapter(spec, spec.rank, seed))

    def rank(self, state: State, client: Client) -> int:
        """Server: the rank or budget that a client has now.

        Asked once a round, by the loop, which puts the answer into the client that all other functions get.

        Args:
            state: the state before the round.
            client: with the rank that the config gives it.
        """
        return client.rank

    def full_participation(self, state: State, round: int) -> bool:
        """Server: whether this round asks all clients, however few a round usually has."""
        return False

    def dispatched_ranks(self, state: State, client: Client) -> Mapping[str, int]:
        """Server: how many slots of each module are sent to the client."""
        return dict.fromkeys(state.adapter.output, client.rank)

    def down(self, round: int) -> Sides:
        """Server: the sides that go, in this round, to a client that missed nothing."""
        return BOTH - self.facts.private_sides

    def dispatch(self, state: State, client: Client, round: int) -> Payload:
        """Server: what a client gets at the start of a round.

        By default the first slots of every shared side. A private side is sent at first contact only, as
        the client's starting point. A side of zeros is not sent: zeros are implied.
        """
        sides = BOTH if client.last_seen_round is None else BOTH - self.facts.private_sides
        return send(state.adapter, sides, self.dispatched_ranks(state, client), implied_zeros=True)

    def upload_schema(self, state: State, client: Client, spec: AdapterSpec, round: int) -> UploadSchema:
        """Server: what the client's upload of this round may hold; anything else is refused in validation.

        By default the sides that train and are shared, whole, with as many slots as the client holds.
        """
        return UploadSchema(
            (whole_sides(spec, self.trains(round) - self.facts.private_sides, self.dispatched_ranks(state, client)),)
        )

    def reducer(self, state: State, round: int) -> Reducer[Any]:
        """Server: what adds up the updates of a round; by default weighted sums of every slot."""
        return SlotSum(state.adapter)

    def head_reducer(self) -> Reducer[Tensors]:
        """Server: what adds up the heads of a round; by default their weighted mean."""
        return HeadMean()

    @abstractmethod
    def advance(self, state: State, total: Any, round: int) -> State:
        """Server: the next state; its head is not asked for.

        Args:
            state: the state that this round was dispatched from.
            total: what `reducer` added up, of at least one update.
            round: the global round, from 1.
        """

    def aggregate(self, state: State, updates: Iterable[Update], round: int) -> State:
        """Server: the next state, head included.

        Args:
            state: the state that this round was dispatched from.
            updates: the accepted updates in client order, at least one; gone through once.
            round: the global round, from 1.

        Raises:
            PayloadError: an update is not what `upload_schema` said; one that came through validation is.
        """
        sides, heads = self.reducer(state, round), self.head_reducer()
        for update in updates:
            sides.add(update)
            heads.add(update)
        after = self.advance(state, sides.total(), round)
        return replace(after, head=heads.total() or state.head)

    def result(self, state: State) -> Start | None:
        """Server: the global model; None where there is none."""
        return None if self.facts.private_sides else Start(state.adapter)

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
        held = {side: tensors_at(kept, side) for side in SIDES}
        private = self.facts.private_sides
        found = {s: held[s] or sent[s] if s in private else sent[s] or held[s] for s in SIDES}
        return Start(complete(found, spec))

    def upload(self, start: Start, trained: Start, kept: Payload, round: int) -> tuple[Part, Payload]:
        """Client: the sides that go up, and what to keep. By default the trained sides; private ones are kept."""
        private = self.facts.private_sides
        return whole(trained.adapter, self.trains(round) - private), sides_of(trained.adapter, private)

    def client(self, payload: Payload, kept: Payload, client: Client, spec: AdapterSpec, round: int) -> Programme:
        """Client: the whole half of a round, as a generator that asks for training.

        Only an unusual local programme overrides this; the default composes `receive`, `trains` and
        `upload`.
        """
        start = self.receive(payload, kept, client, spec)
        fitted = yield Fit(start, self.trains(round))
        sides, keep = self.upload(start, fitted.start, kept, round)
        return Outcome(Update(client, sides, content=self.facts.sends), keep)


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
