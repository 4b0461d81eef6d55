# SPDX-License-Identifier: Apache-2.0
"""LoRA-FAIR: average A and B apart, then correct B for what that loses."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedlora.core.lowrank import LowRank
from fedlora.core.products import ProductSums
from fedlora.core.settings import AboveZero
from fedlora.core.slots import SlotSums
from fedlora.methods.base import Method, State, move_to
from fedlora.methods.facts import Facts
from fedlora.methods.reducers import Both, ProductSum, Reducer, SlotSum


@dataclass(frozen=True)
class FAIR(Method):
    """The average of both factors, with a change of B that brings B A near the average of the products.

    Idea: FedIT's error can be repaired, up to what lies outside the rows of A, by moving B alone.
    Formula: A, B the means; dB = argmin ||(B + dB) A - P||^2 + lambda ||dB||^2 with P = sum_k w_k B_k A_k:
    dB = (P A^T - B A A^T) (A A^T + lambda I)^-1.
    What travels: up r (d_in + d_out) a module, down the same.
    Mixed ranks: no.
    Exact: no.
    Departures: the paper maximises a cosine less lambda ||dB|| by gradient steps; this is the least-squares
    problem of the same purpose in closed form.
    Reference: Bian et al., LoRA-FAIR, arXiv 2411.14961 (ICCV 2025).
    """

    name: ClassVar[str] = "fair"

    ridge: AboveZero = 0.01
    """lambda: how much a change of B costs."""

    @property
    def facts(self) -> Facts:
        """B is corrected anew in every round, so no server optimizer can follow it."""
        return Facts(consumes="slot and product sums", supports_server_optimizer=False, idempotence_tolerance=1e-5)

    def reducer(self, state: State, round: int) -> Reducer[tuple[SlotSums, ProductSums]]:
        """Server: sums of the factors and of their products."""
        return Both(SlotSum(state.adapter), ProductSum(state.adapter))

    def advance(self, state: State, total: tuple[SlotSums, ProductSums], round: int) -> State:
        """Server: both means, and B corrected."""
        sums, products = total
        A, B = sums.mean("input"), sums.mean("output")
        better = {
            module: B[module] + self.correction(product, A[module], B[module])
            for module, product in products.mean().items()
        }
        return move_to(state, {"input": _single(A), "output": _single(better)})

    def correction(self, product: LowRank | Tensor, A: Tensor, B: Tensor) -> Tensor:
        """dB (d_out, r) of one module, in float64.

        Args:
            product: P, (d_out, d_in).
            A: the mean, (r, d_in).
            B: the mean, (d_out, r).
        """
        seen = product.B @ (product.A @ A.T) if isinstance(product, LowRank) else product @ A.T
        gram = A @ A.T
        ridge = self.ridge * torch.eye(gram.shape[0], dtype=gram.dtype)
        missing: Tensor = torch.linalg.solve(gram + ridge, (seen - B @ gram).T)
        return missing.T


def _single(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {module: tensor.float() for module, tensor in tensors.items()}
