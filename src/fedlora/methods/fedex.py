# SPDX-License-Identifier: Apache-2.0
"""FedEx-LoRA: average A and B apart, and put what that loses into the base."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from fedlora.core.adapter import SIDES
from fedlora.core.lowrank import LowRank, stack
from fedlora.core.merged import cheaper
from fedlora.core.products import ProductSums
from fedlora.core.slots import SlotSums
from fedlora.methods.base import State, move_to
from fedlora.methods.facts import Facts
from fedlora.methods.merging import Merging
from fedlora.methods.reducers import Both, ProductSum, Reducer, Sender, Senders, SlotSum

Total = tuple[SlotSums, tuple[ProductSums, tuple[Sender, ...]]]


@dataclass(frozen=True)
class FedEx(Merging):
    """FedIT with its error merged into the base.

    Idea: the mean of products less the product of means is known to the server, and of low rank: send it
    along as factors, and let everyone add it to the base.
    Formula: A, B the means; W += s sum_{k < K} w_k (B_k - B)(A_k - A_K), which is s (sum_k w_k B_k A_k - B A)
    with rank at most (K - 1) r.
    What travels: up r (d_in + d_out) a module; down r (d_in + d_out) and the residual's factors,
    (K - 1) r (d_in + d_out), or its dense sum where that is cheaper.
    Mixed ranks: no.
    Exact: update.
    Departures: the base itself is never changed: the total since W0 is kept beside it, in float32 on any
    wire.
    Reference: Singhal et al., FedEx-LoRA, arXiv 2410.09432 (ACL 2025).
    """

    name: ClassVar[str] = "fedex"

    @property
    def facts(self) -> Facts:
        """The residual is made of the clients' factors one by one."""
        return replace(super().facts, idempotence_tolerance=1e-5)

    def reducer(self, state: State, round: int) -> Reducer[Total]:
        """Server: sums of the factors, their products one behind the other, and everyone's weight."""
        return Both(SlotSum(state.adapter), Both(ProductSum(state.adapter), Senders()))

    def advance(self, state: State, total: Total, round: int) -> State:
        """Server: both means, and the residual merged in."""
        means, (products, senders) = total
        weights = [sender.client.weight for sender in senders]
        whole = sum(weights)
        A, B = ({m: mean.float() for m, mean in means.mean(side).items()} for side in SIDES)
        shares = [weight / whole for weight in weights]
        step = {
            module: cheaper(residual(product, LowRank(A[module].double(), B[module].double()), shares))
            for module, product in products.mean().items()
        }
        return self.with_merged(move_to(state, {"input": A, "output": B}), step, round)


def residual(product: LowRank | Tensor, mean: LowRank, shares: Sequence[float]) -> LowRank | Tensor:
    """sum_k w_k B_k A_k - B A of one module, in float32.

    Args:
        product: the first term; where it is a pair, clients' slots stand one behind the other, each A_k
            already times w_k.
        mean: B and A.
        shares: w_k, in client order.
    """
    if not isinstance(product, LowRank):
        return (product - mean.B @ mean.A).float()
    rank = mean.rank
    A = [product.A[rank * k : rank * (k + 1)] / share for k, share in enumerate(shares)]
    B = [product.B[:, rank * k : rank * (k + 1)] for k in range(len(shares))]
    schema = [(w, LowRank(A[k] - A[-1], B[k] - mean.B)) for k, w in enumerate(shares[:-1])]
    if not schema:  # one client is its own mean
        schema = [(0.0, LowRank(A[0], B[0]))]
    factors = stack(schema)
    return LowRank(factors.A.float(), factors.B.float())
