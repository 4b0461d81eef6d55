# SPDX-License-Identifier: Apache-2.0
"""Weighted sums of products sum_k w_k B_k A_k over clients, in one pass and in bounded client state.

A module's sum is kept as stacked factors while they hold fewer numbers than the matrix, which needs no
(d_out, d_in) matrix at all; past that point stacks of that size are multiplied out and added up in one dense
matrix. All in float64, in the order in which clients come.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from fedlora.core.adapter import Adapter
from fedlora.core.lowrank import LowRank, delta, stack
from fedlora.core.merged import MergedUpdate, is_thin


@dataclass(frozen=True, slots=True, eq=False)
class ProductSums:
    """What was added up."""

    products: MergedUpdate
    """Module -> sum_k w_k B_k A_k, in float64, divided by nothing."""
    weight: float
    """sum_k w_k."""

    def mean(self) -> dict[str, LowRank | Tensor]:
        """The weighted mean of the products."""
        share = 1.0 / self.weight
        return {
            module: LowRank(share * value.A, value.B) if isinstance(value, LowRank) else share * value
            for module, value in self.products.items()
        }


def sum_products(shapes: Mapping[str, tuple[int, ...]], schema: Iterable[tuple[float, Adapter]]) -> ProductSums:
    """Add up clients' products.

    Args:
        shapes: (d_out, d_in) of every module.
        schema: (weight, factors), in client order; gone through once.
    """
    adder = ProductAdder(shapes)
    for weight, adapter in schema:
        adder.add(weight, adapter)
    return adder.sums()


class ProductAdder:
    """`sum_products`, client by client."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._shapes = shapes
        self._waiting: dict[str, list[tuple[float, LowRank]]] = {module: [] for module in shapes}
        self._dense: dict[str, Tensor] = {}
        self._slots = dict.fromkeys(shapes, 0)
        self._weight = 0.0

    def add(self, weight: float, adapter: Adapter) -> None:
        """Add one client."""
        self._weight += weight
        for module, (d_out, d_in) in self._shapes.items():
            pair = LowRank(adapter.input[module].double(), adapter.output[module].double())
            self._waiting[module].append((weight, pair))
            self._slots[module] += pair.rank
            if not is_thin(self._slots[module], d_out, d_in):
                self._multiply(module)

    def _multiply(self, module: str) -> None:
        """Multiply out what waits: in one go, since many thin products cost far more than one thick one."""
        more = delta(stack(self._waiting[module]))
        self._dense[module] = self._dense[module] + more if module in self._dense else more
        self._waiting[module], self._slots[module] = [], 0

    def sums(self) -> ProductSums:
        """What was added up."""
        sums: dict[str, LowRank | Tensor] = {}
        for module, waiting in self._waiting.items():
            if module in self._dense and waiting:
                self._multiply(module)
            sums[module] = self._dense[module] if module in self._dense else stack(waiting)
        return ProductSums(sums, self._weight)
