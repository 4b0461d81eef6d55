# SPDX-License-Identifier: Apache-2.0
"""What the methods that average slot by slot have in common: which centre they take."""

from dataclasses import dataclass, replace
from typing import Annotated, Any, Protocol

from torch import Tensor

from fedlora.core.adapter import Tensors
from fedlora.core.centres import Centre
from fedlora.core.kinds import Side
from fedlora.core.settings import Range
from fedlora.methods.base import Method, State
from fedlora.methods.facts import Facts
from fedlora.methods.reducers import HeadCentre, HeadMean, Reducer, SlotCentre, SlotSum


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
    trim: Annotated[float, Range(at_least=0.0, below=0.5)] = 0.1
    """trimmed: the share of clients that is cut off at each end."""

    def reducer(self, state: State, round: int) -> Reducer[Any]:
        """Server: weighted sums of every slot, or what all clients sent where the centre is robust."""
        if self.centre == "mean":
            return SlotSum(state.adapter)
        return SlotCentre(state.adapter, self._cut())

    def head_reducer(self) -> Reducer[Tensors]:
        """Server: the same centre for the head."""
        return HeadMean() if self.centre == "mean" else HeadCentre(self._cut())

    def _cut(self) -> float | None:
        """What a robust centre cuts off at each end; None: all but the middle."""
        return None if self.centre == "median" else self.trim

    def by_centre(self, facts: Facts) -> Facts:
        """Facts that hold for the mean, as this object's centre leaves them.

        A robust centre is no weighted mean, counts clients alike and looks at each of them.
        """
        if self.centre == "mean":
            return facts
        return replace(facts.inexact(), example_weighted=False, consumes="individual")
