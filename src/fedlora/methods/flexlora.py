# SPDX-License-Identifier: Apache-2.0
"""FlexLoRA: average the products, then take the best approximation of the average."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from fedlora.core.lowrank import compress
from fedlora.core.products import sum_products
from fedlora.core.rounds import Upload
from fedlora.methods.base import Exact, Method, State, refactorized
from fedlora.methods.sides import factors_of


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
    mixed_ranks: ClassVar[bool] = True
    exact: ClassVar[Exact] = "before truncation"
    refactorizes: ClassVar[bool] = True
    supports_server_optimizer: ClassVar[bool] = False
    idempotence_tolerance: ClassVar[float | None] = 1e-4

    def aggregate(self, state: State, uploads: Iterable[Upload], round: int) -> State:
        """The mean of the products, then its best approximation; dense only where that is cheaper."""
        means = sum_products(state.adapter.shapes(), factors_of(uploads)).mean()
        return refactorized(state, {m: compress(means[m], rank) for m, rank in state.adapter.ranks().items()})
