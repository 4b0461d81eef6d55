# SPDX-License-Identifier: Apache-2.0
"""FedSVD: train B alone, and turn both factors anew after every average."""

from dataclasses import dataclass
from typing import ClassVar

from fedlora.core.adapter import OUTPUT, Sides
from fedlora.core.lowrank import LowRank, compress
from fedlora.core.slots import SlotSums
from fedlora.methods.base import Method, State, refactorized
from fedlora.methods.facts import Facts


@dataclass(frozen=True)
class FedSVD(Method):
    """FFA-LoRA with an A that follows what was learned.

    Idea: training B alone keeps the average exact; splitting the average anew lets A follow, with
    orthonormal rows.
    Formula: B = sum_k w_k B_k, then U S V^T = B A, B = U S and A = V^T, so that A A^T = I and B A is
    unchanged.
    What travels: up r d_out a module, down r (d_in + d_out).
    Mixed ranks: no.
    Exact: update.
    Departures: A is random and not orthonormal in round 1, as for every other method here.
    Reference: Lee et al., FedSVD, arXiv 2505.12805 (NeurIPS 2025).
    """

    name: ClassVar[str] = "fedsvd"

    @property
    def facts(self) -> Facts:
        """The average of B is exact; the server splits B A anew."""
        return Facts(exact="update", refactorizes=True, supports_server_optimizer=False, idempotence_tolerance=1e-4)

    def trains(self, round: int) -> Sides:
        """Client (and server): always the output side."""
        return OUTPUT

    def advance(self, state: State, total: SlotSums, round: int) -> State:
        """Server: the mean of B, and the singular value decomposition of B A."""
        B = total.mean("output")
        pairs = {module: LowRank(A.double(), B[module]) for module, A in state.adapter.input.items()}
        return refactorized(state, {module: compress(pair, pair.rank) for module, pair in pairs.items()})
