# SPDX-License-Identifier: Apache-2.0
"""LoRA-A2: freeze B and A in turn, and let each client choose and send only its best slots."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Tensor

from fedlora.core.adapter import BOTH, INPUT, OUTPUT, SIDES, AdapterSpec, Sides, Start, Tensors
from fedlora.core.kinds import Side
from fedlora.core.payload import Payload
from fedlora.core.rounds import Client, Duration, Fit, Fitted
from fedlora.core.schema import Chosen, UploadSchema, whole_sides
from fedlora.core.settings import Positive
from fedlora.core.slots import (
    Sparse,
    affordable_slots,
    contribution,
    index_type,
    norms,
    sensitivity,
    top_slots,
)
from fedlora.core.update import Update
from fedlora.errors import MethodError
from fedlora.methods.base import Outcome, Programme, State
from fedlora.methods.facts import Facts
from fedlora.methods.one_side import OneSideMixed, change
from fedlora.methods.sides import sides_of


@dataclass(frozen=True)
class LoRAA2(OneSideMixed):
    """A pool of r_G slots a module; a client of budget r_k trains the r_k N slots that matter most to it.

    Idea: alternating freeze makes every average exact; a client picks its slots over the whole model, so
    clients with different data move different slots instead of fighting over the same.
    Formula: odd rounds train B, even rounds A. Before its real training a client trains the active side
    for a probe, scores S[m, i] = ||dB_i|| ||A_i|| (B rounds) or ||B_i|| ||dA_i|| (A rounds), keeps the top
    r_k N slots over all modules together, forgets the probe, trains again from the same start with all
    other slots unmoved, and sends the change of the chosen slots. factor += sum_k w_k delta_k, a missing
    slot counting as zero, divided by the weight of all clients.
    Other criteria: `magnitude` scores ||dB_i|| or ||dA_i|| alone; `sensitivity` the sum over the slot of
    |weight after the probe x the probe's mean gradient|; `contribution-per-byte` goes by S^2 over what the
    vector costs, until the budget is used. A budget is r_k slots a module or, with `bytes_per_round`, bytes.
    What travels: up the chosen vectors of one side with their slot numbers; down the side that the round
    before changed, at r_G slots (both sides after a lost reply or a lost client state).
    Mixed ranks: yes, as budgets.
    Exact: update (no with `denominator = "owners"`).
    Departures: the paper leaves open what the probe keeps (here nothing: weights, optimiser and batches
    are its own), what masks weight decay (here everything), and r_G (here at least 16).
    Reference: Koo et al., Towards Robust and Efficient Federated Low-Rank Adaptation with Heterogeneous
    Clients, arXiv 2410.22815 (ACL 2025), algorithms 1 and 2.
    """

    name: ClassVar[str] = "lora-a2"

    pool_rank: Positive | None = None
    """r_G, the slots of every module to choose from; without a value the larger of 16 and the largest
    budget."""
    probe_epochs: Positive = 1
    """How long a client trains before it chooses, in epochs."""
    criterion: Literal["contribution", "magnitude", "sensitivity", "contribution-per-byte"] = "contribution"
    """What makes a slot important. All but the last are the paper's."""
    bytes_per_round: Positive | None = None
    """What a client may send of vectors and slot numbers in a round, in bytes; without a value r_k slots a
    module or, for contribution-per-byte, what so many slots of every module cost in that round."""

    @property
    def facts(self) -> Facts:
        """As for every method of one side; the paper trains B five times faster than A."""
        return replace(super().facts, lr_b_ratio=5.0)

    def check_federation(self, spec: AdapterSpec, clients: Sequence[Client]) -> None:
        """Server: refuse a budget larger than the pool."""
        super().check_federation(spec, clients)
        if self.pool_rank is not None and self.pool_rank < spec.rank:
            raise MethodError(
                f"method.pool_rank is {self.pool_rank} but the largest budget is {spec.rank}: make the pool "
                f"at least {spec.rank}, or leave it out."
            )
        if self.bytes_per_round is not None:
            self._require_affordable(self.bytes_per_round, spec)

    def _require_affordable(self, budget: int, spec: AdapterSpec) -> None:
        """Refuse a budget in bytes that does not pay for a single slot of the side that a round trains."""
        slots = self.slots(spec)
        least = max(min(cost(side, spec, module, slots) for module in spec.shapes) for side in SIDES)
        if budget < least:
            raise MethodError(
                f"method.bytes_per_round is {budget}, but the smallest slot of this base takes {least} bytes, so that "
                f"clients could send nothing: set it to at least {least}, or leave it out."
            )

    def slots(self, spec: AdapterSpec) -> int:
        """Server: r_G."""
        return max(16, spec.rank) if self.pool_rank is None else self.pool_rank

    def dispatched_ranks(self, state: State, client: Client) -> Mapping[str, int]:
        """Server: every client works in the whole pool."""
        return state.adapter.ranks()

    def upload_schema(self, state: State, client: Client, spec: AdapterSpec, round: int) -> UploadSchema:
        """Server: slots of the active side, any of the pool, within the client's budget."""
        side, pool = self.active(round), self.dispatched_ranks(state, client)
        prices, budget = self.afford(pool, side, client, spec)
        shapes = whole_sides(spec, self.trains(round), pool)[side]
        return UploadSchema(chosen={side: Chosen(shapes, 0 if side == "input" else 1, budget, prices)})

    def trains(self, round: int) -> Sides:
        """Client (and server): B in odd rounds, A in even ones (with B = 0, A would not move)."""
        return OUTPUT if round % 2 else INPUT

    def client(self, payload: Payload, kept: Payload, client: Client, spec: AdapterSpec, round: int) -> Programme:
        """Client: probe, choose, train, send what was chosen."""
        start = self.receive(payload, kept, client, spec)
        side, sides = self.active(round), self.trains(round)
        measure: Literal["gradient", "nothing"] = "gradient" if self.criterion == "sensitivity" else "nothing"
        duration = Duration(epochs=self.probe_epochs)
        probe = yield Fit(start, sides, duration=duration, probe=True, measure=measure)
        chosen = self.choose(self.scores(start, probe, side), side, client, spec)

        fitted = yield Fit(start, sides, mask=chosen)
        moved = pick(side, change(start, fitted.start, side), chosen)
        notes = {"side": side, "slots": {m: mask.nonzero().flatten().tolist() for m, mask in chosen.items()}}
        update = Update(client, {side: moved}, content=self.facts.sends)
        return Outcome(update, sides_of(start.adapter, BOTH), notes)

    def scores(self, start: Start, probe: Fitted, side: Side) -> dict[str, Tensor]:
        """Client: how important every slot is, (r,) by module."""
        moved = change(start, probe.start, side)
        if self.criterion == "magnitude":
            return {module: norms(side, tensor) for module, tensor in moved.items()}
        if self.criterion == "sensitivity":
            return sensitivity(side, probe.start.adapter.side(side), probe.gradient[side])
        opposite: Side = "output" if side == "input" else "input"
        return contribution(side, moved, start.adapter.side(opposite))

    def choose(self, scores: Tensors, side: Side, client: Client, spec: AdapterSpec) -> dict[str, Tensor]:
        """Client: which slots to train and send, as masks (r,) by module."""
        costs, budget = self.afford({module: score.numel() for module, score in scores.items()}, side, client, spec)
        if self.slots_up(client, spec) is not None:
            return top_slots(scores, budget)
        per_byte = self.criterion == "contribution-per-byte"
        worth = {module: score.square() / costs[module] for module, score in scores.items()} if per_byte else scores
        return affordable_slots(worth, costs, budget)

    def afford(
        self, pool: Mapping[str, int], side: Side, client: Client, spec: AdapterSpec
    ) -> tuple[dict[str, int], int]:
        """Client (and server): what one slot of each module costs, and what all may cost together.

        Args:
            pool: the slots of each module.
            side: the one that trains.
            client: has the budget.
            spec: the adapter.
        """
        most = self.slots_up(client, spec)
        if most is not None:
            return dict.fromkeys(pool, 1), most
        costs = {module: cost(side, spec, module, slots) for module, slots in pool.items()}
        return costs, client.rank * sum(costs.values()) if self.bytes_per_round is None else self.bytes_per_round

    def slots_up(self, client: Client, spec: AdapterSpec) -> int | None:
        """Client (and server): the budget in slots; None where it is one in bytes."""
        in_slots = self.criterion != "contribution-per-byte" and self.bytes_per_round is None
        return super().slots_up(client, spec) if in_slots else None


def cost(side: Side, spec: AdapterSpec, module: str, slots: int) -> int:
    """What one slot of a module costs on the wire, in bytes: its vector, and its number."""
    d_out, d_in = spec.shapes[module]
    return (d_in if side == "input" else d_out) * spec.wire.itemsize + index_type(slots).itemsize


def pick(side: Side, tensors: Tensors, chosen: Tensors) -> dict[str, Sparse]:
    """The chosen slots of one side with their numbers; modules without any are left out."""
    picked = {}
    for module, mask in chosen.items():
        if bool(mask.any()):
            values = tensors[module][mask] if side == "input" else tensors[module][:, mask]
            slots = mask.nonzero().flatten().to(index_type(mask.numel()))
            picked[module] = Sparse(slots, values)
    return picked
