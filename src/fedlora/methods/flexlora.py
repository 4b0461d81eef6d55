# SPDX-License-Identifier: Apache-2.0
"""FlexLoRA: average the products, then take the best approximation of the average."""

from dataclasses import dataclass
from typing import ClassVar

from fedlora.core.lowrank import compress
from fedlora.core.products import ProductSums
from fedlora.methods.base import Method, State, refactorized
from fedlora.methods.facts import Facts
from fedlora.methods.reducers import ProductSum, Reducer


@dataclass(frozen=True)
class FlexLoRA(Method):
    """Average B_k A_k, and split the average anew by singular values.

    Idea: the product is what a client learned; averaging products has no cross schema.
    Formula: D = sum_k w_k B_k A_k, its best rank-r approximation U S V^T at the largest rank r, then
    B = U S and A = V^T; client k gets the top r_k slots. Round 1 sends the plain start.
    What travels: up r_k (d_in + d_out) a module, down the same.
    Mixed ranks: yes. But with mixed ranks it is no exact update: without any training at all singular
    value i shrinks to the weight share of the clients that own it.
    Exact: before truncation.
    Departures: one scale for the whole federation, so no client's product is rescaled.
    Reference: Bai et al., Federated Fine-tuning of LLMs under Heterogeneous Tasks and Client Resources,
    arXiv 2402.11505 (NeurIPS 2024).
    """

    name: ClassVar[str] = "flexlora"

    @property
    def facts(self) -> Facts:
        """The server splits the mean of the products anew."""
        return Facts(
            consumes="product sums",
            exact="before truncation",
            mixed_ranks=True,
            refactorizes=True,
            supports_server_optimizer=False,
            idempotence_tolerance=1e-4,
        )

    def reducer(self, state: State, round: int) -> Reducer[ProductSums]:
        """Server: sums of the products; dense only where that is cheaper."""
        return ProductSum(state.adapter)

    def advance(self, state: State, total: ProductSums, round: int) -> State:
        """Server: the mean of the products, then its best approximation."""
        means = total.mean()
        return refactorized(state, {m: compress(means[m], rank) for m, rank in state.adapter.ranks().items()})
