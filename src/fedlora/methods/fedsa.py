# SPDX-License-Identifier: Apache-2.0
"""FedSA-LoRA: share A, keep B with the client."""

from dataclasses import dataclass
from typing import ClassVar

from fedlora.core.adapter import INPUT, OUTPUT
from fedlora.core.kinds import Side
from fedlora.methods.base import State, move_to
from fedlora.methods.facts import Facts
from fedlora.methods.slotwise import Centres, Slotwise


@dataclass(frozen=True)
class FedSA(Slotwise):
    """Every client trains both sides; only the input side is averaged, B_k stays on client k for good.

    Idea: A learns what clients have in common, B what is their own.
    Formula: A = sum_k w_k A_k; the model of client k is W0 + s B_k A. With `adapter.scaling = "rslora"`
    this is FedSA-rsLoRA.
    With `shared = "output"` B is averaged and A stays: a client that never took part then has the common
    initial A under the shared B.
    What travels: up r_k d_in a module, down the same (`shared = "output"`: r_k d_out).
    Mixed ranks: yes (ours): A is averaged per slot over its owners, B_k has r_k columns.
    Exact: none; there is no global model but one per client. A client that never took part has the B that
    the run started with (zero, unless it goes on from an adapter).
    Departures: the published configuration hands one client's B and head to the next; here B_k is part of
    client k's own client state and of no payload.
    Reference: Guo et al., Selective Aggregation for Low-Rank Adaptation, arXiv 2410.01463 (ICLR 2025).
    """

    name: ClassVar[str] = "fedsa"

    shared: Side = "input"
    """The side that is averaged; the other one stays with the client. Which is better depends on how clients
    differ (arXiv 2509.25414)."""

    @property
    def facts(self) -> Facts:
        """The side that is not shared is private, so there is no global model."""
        private = OUTPUT if self.shared == "input" else INPUT
        facts = Facts(kinds=frozenset({"lora", "vera"}), mixed_ranks=True, exact="none", private_sides=private)
        return self.by_centre(facts)

    def advance(self, state: State, total: Centres, round: int) -> State:
        """Server: the mean of the shared side over the clients that own each slot."""
        side = self.shared
        return move_to(state, {side: total.keep_unowned(side, total.owners_mean(side), state.adapter.side(side))})
