# SPDX-License-Identifier: Apache-2.0
"""Zero padding: the naive way to average unequal ranks."""

from dataclasses import dataclass
from typing import ClassVar

from fedlora.core.adapter import SIDES
from fedlora.methods.base import State, move_to
from fedlora.methods.facts import Facts
from fedlora.methods.slotwise import Centres, Slotwise


@dataclass(frozen=True)
class ZeroPad(Slotwise):
    """Pad every client's factors with zeros to the largest rank, average, truncate on the way down.

    Idea: unequal ranks become equal by zero rows of A and zero columns of B.
    Formula: A = sum_k w_k pad(A_k), B = sum_k w_k pad(B_k). A slot that clients of weight share q own is
    scaled by q on both sides, so its product by q^2: what high ranks learned is diluted.
    What travels: up r_k (d_in + d_out) a module, down the same.
    Mixed ranks: yes; at equal ranks it is FedIT.
    Exact: no.
    Departures: a slot that nobody owned in the round keeps its value. Averaged to zero on both sides it
    would never receive a gradient again.
    Reference: the baseline of Cho et al., arXiv 2401.06432, and Byun & Lee, arXiv 2406.17477.
    """

    name: ClassVar[str] = "zeropad"

    @property
    def facts(self) -> Facts:
        """Averages of unequal ranks."""
        return self.by_centre(Facts(mixed_ranks=True, idempotence_tolerance=1e-5))

    def advance(self, state: State, total: Centres, round: int) -> State:
        """Server: the mean over all clients, a missing slot counting as zero."""
        means = {side: total.keep_unowned(side, total.mean(side), state.adapter.side(side)) for side in SIDES}
        return move_to(state, means)
