# SPDX-License-Identifier: Apache-2.0
"""What the methods that average slot by slot have in common: which centre they take."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from fedlora.core.adapter import Adapter, Tensors
from fedlora.core.centres import Centre, slot_centres
from fedlora.core.kinds import Side
from fedlora.core.slots import Part, slot_sums
from fedlora.errors import MethodError
from fedlora.methods.base import Exact, Method


class Centres(Protocol):
    """The centre of what clients sent, slot by slot."""

    def mean(self, side: Side) -> dict[str, Tensor]:
        """Over all clients, a slot that a client did not send counting as zero."""
        ...

    def owners_mean(self, side: Side) -> dict[str, Tensor]:
        """Over the clients that sent the slot; zero where nobody did."""
        ...

    def keep_unowned(self, side: Side, new: Tensors, old: Tensors) -> dict[str, Tensor]:
        """`new` where somebody sent the slot, `old` where nobody did."""
        ...


@dataclass(frozen=True)
class Slotwise(Method):
    """A method whose aggregate is a centre of every slot, by default the mean by examples."""

    centre: Centre = "mean"
    """The centre of what clients sent: the mean by examples, or coordinate by coordinate the trimmed mean or
    the median, for which every client counts the same."""
    trim: float = 0.1
    """trimmed: the share of clients that is cut off at each end."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.trim < 0.5:
            raise MethodError(f"method.trim is {self.trim}; it must be at least 0 and below 0.5.")

    def centres(self, like: Adapter, parts: Iterable[tuple[float, Part]]) -> Centres:
        """Server: the centres of what clients sent, as (weight, part)."""
        if self.centre == "mean":
            return slot_sums(like, parts)
        return slot_centres(like, (part for _, part in parts), None if self.centre == "median" else self.trim)

    def example_weighted(self) -> bool:
        """Only the mean goes by examples."""
        return self.centre == "mean"

    def exactness(self) -> Exact:
        """A robust centre is no weighted mean."""
        return self.exact if self.centre == "mean" or self.exact == "none" else "no"
