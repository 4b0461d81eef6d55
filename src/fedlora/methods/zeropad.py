# SPDX-License-Identifier: Apache-2.0
"""Zero padding: the naive way to average unequal ranks."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from fedlora.core.adapter import BOTH, SIDES
from fedlora.core.rounds import Upload
from fedlora.methods.base import State, move_to
from fedlora.methods.sides import parts_of
from fedlora.methods.slotwise import Slotwise


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
    mixed_ranks: ClassVar[bool] = True
    idempotence_tolerance: ClassVar[float | None] = 1e-5

    def aggregate(self, state: State, uploads: Iterable[Upload], round: int) -> State:
        """The mean over all clients, a missing slot counting as zero."""
        sums = self.centres(state.adapter, parts_of(uploads, BOTH))
        means = {side: sums.keep_unowned(side, sums.mean(side), state.adapter.side(side)) for side in SIDES}
        return move_to(state, means)
