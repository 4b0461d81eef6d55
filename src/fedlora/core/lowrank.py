# SPDX-License-Identifier: Apache-2.0
"""The algebra of one low-rank pair: B A with A (r, d_in) and B (d_out, r).

Slot i of a pair is row i of A together with column i of B. All functions are pure; none knows a scale:
the product here is the plain B A, and the federation's one scale is applied in the forward pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """A pair of factors whose product B A is a (d_out, d_in) matrix of rank at most r.

    Raises:
        ValueError: the two factors do not have the same number of slots.
    """

    A: Tensor
    """The input side, (r, d_in)."""
    B: Tensor
    """The output side, (d_out, r)."""

    def __post_init__(self) -> None:
        if self.A.ndim != 2 or self.B.ndim != 2 or self.A.shape[0] != self.B.shape[1]:
            raise ValueError(f"no pair of factors: A is {tuple(self.A.shape)}, B is {tuple(self.B.shape)}")

    @property
    def rank(self) -> int:
        """The number of slots, r."""
        return self.A.shape[0]


def delta(pair: LowRank) -> Tensor:
    """The product B A, (d_out, d_in), without any scale."""
    return pair.B @ pair.A


def truncate(pair: LowRank, rank: int) -> LowRank:
    """The first `rank` slots; the pair itself where it has no more than that."""
    return LowRank(pair.A[:rank], pair.B[:, :rank])


def pad(pair: LowRank, rank: int) -> LowRank:
    """The pair with zero slots appended, up to `rank`; the product does not change.

    Raises:
        ValueError: the pair already has more than `rank` slots.
    """
    missing = rank - pair.rank
    if missing < 0:
        raise ValueError(f"a pair of rank {pair.rank} cannot be padded to rank {rank}")
    rows = pair.A.new_zeros(missing, pair.A.shape[1])
    columns = pair.B.new_zeros(pair.B.shape[0], missing)
    return LowRank(torch.cat([pair.A, rows]), torch.cat([pair.B, columns], dim=1))


def stack(schema: Sequence[tuple[float, LowRank]]) -> LowRank:
    """One pair whose product is the weighted sum of these pairs' products.

    `sum_k w_k B_k A_k = [B_1, B_2, ...] [w_1 A_1; w_2 A_2; ...]`; its rank is the sum of the ranks.
    """
    A = torch.cat([weight * pair.A for weight, pair in schema])  # (R, d_in)
    B = torch.cat([pair.B for _, pair in schema], dim=1)  # (d_out, R)
    return LowRank(A, B)


def singular(value: LowRank | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The singular value decomposition U, S, V^T of B A, or of a dense matrix, in float64.

    While a pair is thinner than the matrix, the singular values are found without ever forming the
    matrix: B = Q_B R_B and A^T = Q_A R_A give B A = Q_B (R_B R_A^T) Q_A^T, whose core is r x r. Cost
    O((d_in + d_out) r^2 + r^3) against O(d_in d_out min(d_in, d_out)).
    """
    if isinstance(value, LowRank):
        A, B = value.A.double(), value.B.double()
        if value.rank < min(A.shape[1], B.shape[0]):
            q_out, r_out = torch.linalg.qr(B)  # (d_out, r), (r, r)
            q_in, r_in = torch.linalg.qr(A.T)  # (d_in, r), (r, r)
            U, S, Vh = torch.linalg.svd(r_out @ r_in.T, full_matrices=False)
            return q_out @ U, S, Vh @ q_in.T
        value = B @ A
    U, S, Vh = torch.linalg.svd(value.double(), full_matrices=False)
    return U, S, Vh


def compress(value: LowRank | Tensor, rank: int) -> LowRank:
    """The best approximation of B A with `rank` slots: B = U S, A = V^T (Eckart-Young).

    In the type of what was given. Slots beyond the number of singular values are zero.
    """
    U, S, Vh = singular(value)
    kept = min(rank, S.numel())
    dtype = value.A.dtype if isinstance(value, LowRank) else value.dtype
    return pad(LowRank(Vh[:kept].to(dtype), (U[:, :kept] * S[:kept]).to(dtype)), rank)
