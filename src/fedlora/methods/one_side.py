# SPDX-License-Identifier: Apache-2.0
"""What FFA-LoRA, RoLoRA and LoRA-A2 have in common: one side trains, the other is equal everywhere.

With one factor equal on all clients, averaging the other is exact: sum_k w_k B_k A = (sum_k w_k B_k) A.
Clients keep the shared adapter as they received it and upload the change of the side that trained; the
server sends only the sides that changed since what a client is known to hold.
"""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from fedlora.core.adapter import BOTH, NEITHER, SIDES, AdapterSpec, Sides, Start, Tensors, fresh_adapter
from fedlora.core.kinds import Side
from fedlora.core.payload import Payload, branch, integer_at
from fedlora.core.rounds import Client
from fedlora.core.slots import Part
from fedlora.methods.base import State, move_to
from fedlora.methods.facts import Facts
from fedlora.methods.sides import send, sides_of
from fedlora.methods.slotwise import Centres, Slotwise


@dataclass(frozen=True)
class OneSide(Slotwise):
    """One side a round. A method states which (`trains`)."""

    @property
    def facts(self) -> Facts:
        """With the other side equal everywhere the mean is exact; clients keep the adapter that they received."""
        exact = Facts(exact="update", needs_client_state=True, sends="changes", idempotence_tolerance=1e-5)
        return self.by_centre(exact)

    @abstractmethod
    def trains(self, round: int) -> Sides:
        """Client (and server): the one side that trains, by the global round."""

    def active(self, round: int) -> Side:
        """The side that trains in this round."""
        return "input" if "input" in self.trains(round) else "output"

    def init(self, spec: AdapterSpec, seed: int) -> State:
        """Server: a fresh adapter, neither side changed yet."""
        return State(fresh_adapter(spec, self.slots(spec), seed), {"changed": dict.fromkeys(SIDES, 0)})

    def slots(self, spec: AdapterSpec) -> int:
        """Server: how many slots the global adapter has."""
        return spec.rank

    def down(self, round: int) -> Sides:
        """Server: what the round before changed."""
        return self.trains(round - 1) if round > 1 else BOTH

    def dispatch(self, state: State, client: Client, round: int) -> Payload:
        """Server: the sides that changed since the content the client is known to hold; else both.

        A client whose upload of round s was accepted holds what was dispatched in s, so it lacks the
        sides that round s or a later one changed.
        """
        slots = self.dispatched_ranks(state, client)
        if client.last_seen_round is None:
            return send(state.adapter, BOTH, slots, implied_zeros=True)
        changed = branch(state.extra, "changed")
        stale = frozenset(side for side in SIDES if integer_at(changed, side) >= client.last_seen_round)
        return send(state.adapter, stale or NEITHER, slots, implied_zeros=False)

    def upload(self, start: Start, trained: Start, kept: Payload, round: int) -> tuple[Part, Payload]:
        """Client: the change of the active side; the starting point is kept."""
        side = self.active(round)
        return {side: change(start, trained, side)}, sides_of(start.adapter, BOTH)

    def advance(self, state: State, total: Centres, round: int) -> State:
        """Server: factor += sum_k w_k delta_k over the side that trained."""
        side = self.active(round)
        moved: dict[str, Tensor] = {}
        for module, step in self.step(total, side).items():
            old = state.adapter.side(side)[module]
            moved[module] = (old.double() + step).to(old.dtype)
        changed = {**branch(state.extra, "changed"), side: round}
        return replace(move_to(state, {side: moved}), extra={**state.extra, "changed": changed})

    def step(self, sums: Centres, side: Side) -> Tensors:
        """Server: how far the side moves; a slot that a client did not send is a zero delta."""
        return sums.mean(side)


@dataclass(frozen=True)
class OneSideMixed(OneSide):
    """One side a round, and clients that send different slots of it."""

    denominator: Literal["all", "owners"] = "all"
    """What a slot's deltas are divided by: the weight of all clients, or of those that sent the slot."""

    def step(self, sums: Centres, side: Side) -> Tensors:
        """Server: the mean delta, over all clients or over each slot's owners."""
        return sums.owners_mean(side) if self.denominator == "owners" else sums.mean(side)

    @property
    def facts(self) -> Facts:
        """Averages over owners are no weighted mean of the clients' updates."""
        mixed = replace(super().facts, mixed_ranks=True)
        return mixed.inexact() if self.denominator == "owners" else mixed


def change(start: Start, trained: Start, side: Side) -> dict[str, Tensor]:
    """Trained minus start of one side, by module."""
    before = start.adapter.side(side)
    return {module: after - before[module] for module, after in trained.adapter.side(side).items()}
