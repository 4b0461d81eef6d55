# SPDX-License-Identifier: Apache-2.0
"""FedSA-LoRA: share A, keep B with the client."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from fedlora.core.adapter import INPUT, OUTPUT, Sides
from fedlora.core.kinds import Kind, Side
from fedlora.core.rounds import Upload
from fedlora.methods.base import Exact, State, move_to
from fedlora.methods.sides import parts_of
from fedlora.methods.slotwise import Slotwise


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
    kinds: ClassVar[frozenset[Kind]] = frozenset({"lora", "vera"})
    mixed_ranks: ClassVar[bool] = True
    exact: ClassVar[Exact] = "none"
    private: ClassVar[Sides] = OUTPUT

    shared: Side = "input"
    """The side that is averaged; the other one stays with the client. Which is better depends on how clients
    differ (arXiv 2509.25414)."""

    def private_sides(self) -> Sides:
        """The side that is not shared."""
        return OUTPUT if self.shared == "input" else INPUT

    def aggregate(self, state: State, uploads: Iterable[Upload], round: int) -> State:
        """The mean of the shared side over the clients that own each slot."""
        side = self.shared
        sums = self.centres(state.adapter, parts_of(uploads, frozenset((side,))))
        return move_to(state, {side: sums.keep_unowned(side, sums.owners_mean(side), state.adapter.side(side))})
