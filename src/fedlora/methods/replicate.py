# SPDX-License-Identifier: Apache-2.0
"""Replication padding: fill a low-rank client's missing slots from those who own them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from fedlora.core.adapter import BOTH, SIDES
from fedlora.core.rounds import Upload
from fedlora.methods.base import State, move_to, parts_of
from fedlora.methods.slotwise import Slotwise


@dataclass(frozen=True)
class Replicate(Slotwise):
    """Average A and B apart; slots that a client lacks are copied, at the server, from their owners.

    Idea: padding with zeros dilutes the slots that only high-rank clients train; padding with what those
    clients learned does not.
    Formula: with the owners' weighted mean as the source, the average of the padded factors is the mean
    of every slot over its owners: A[i] = sum_{k owns i} w_k A_k[i] / sum_{k owns i} w_k, B likewise.
    What travels: up r_k (d_in + d_out) a module, down the same (the first r_k slots).
    Mixed ranks: yes; at equal ranks it is FedIT.
    Exact: no; A and B are still averaged apart.
    Departures: the paper copies from the best high-rank client or the high-rank clients' own mean; the
    weighted mean of the owners is that mean. A slot that nobody owned in the round keeps its value.
    Reference: Byun & Lee, arXiv 2406.17477 (NAACL 2025).
    """

    name: ClassVar[str] = "replicate"
    mixed_ranks: ClassVar[bool] = True
    twins: ClassVar[float | None] = 1e-5

    def aggregate(self, state: State, uploads: Iterable[Upload], round: int) -> State:
        """The mean of every slot over the clients that own it."""
        sums = self.centres(state.adapter, parts_of(uploads, BOTH))
        means = {side: sums.keep_unowned(side, sums.owners_mean(side), state.adapter.side(side)) for side in SIDES}
        return move_to(state, means)
