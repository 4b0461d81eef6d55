# SPDX-License-Identifier: Apache-2.0
"""Reducers: what a server adds up over the clients of a round, one update after the other.

A reducer takes updates in client order, so that sums have the same bits whatever the order of arrival. Sums forget
each update once it is added; what needs updates by themselves keeps them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from fedlora.core.adapter import SIDES, Adapter, Tensors
from fedlora.core.centres import SlotCentres, centre_of, slot_centres
from fedlora.core.kinds import Side
from fedlora.core.products import ProductAdder, ProductSums
from fedlora.core.rounds import Client
from fedlora.core.slots import Part, SlotAdder, SlotSums
from fedlora.core.update import Update
from fedlora.errors import PayloadError

Total_co = TypeVar("Total_co", covariant=True)
First = TypeVar("First")
Second = TypeVar("Second")


class Reducer(Protocol[Total_co]):
    """Adds up updates."""

    def add(self, update: Update) -> None:
        """Add one client's update.

        Raises:
            PayloadError: it is not what the upload schema said; one that came through validation is.
        """
        ...

    def total(self) -> Total_co:
        """What was added up."""
        ...


class SlotSum:
    """sum_k w_k x_k of every slot over the clients that sent it, weighted by examples, in float64."""

    def __init__(self, like: Adapter) -> None:
        self._adder = SlotAdder(like)

    def add(self, update: Update) -> None:
        """Add one client's slots."""
        self._adder.add(update.weight, update.sides)

    def total(self) -> SlotSums:
        """The sums, and the weight behind each slot."""
        return self._adder.sums()


class SlotCentre:
    """What every client sent, side by side, for a robust centre; clients count alike."""

    def __init__(self, like: Adapter, trim: float | None) -> None:
        self._like, self._trim = like, trim
        self._parts: list[Part] = []

    def add(self, update: Update) -> None:
        """Keep one client's slots."""
        self._parts.append(update.sides)

    def total(self) -> SlotCentres:
        """All of them, and how to take the centre."""
        return slot_centres(self._like, self._parts, self._trim)


class ProductSum:
    """sum_k w_k B_k A_k of every module, weighted by examples, in float64."""

    def __init__(self, like: Adapter) -> None:
        self._adder = ProductAdder(like.shapes())

    def add(self, update: Update) -> None:
        """Add one client's products."""
        self._adder.add(update.weight, factors(update))

    def total(self) -> ProductSums:
        """The sums, as stacked factors or as matrices, whatever is cheaper."""
        return self._adder.sums()


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sent an update, and the numbers that came with it."""

    client: Client
    numbers: Mapping[str, float]


class Senders:
    """The clients whose updates were added, without their tensors."""

    def __init__(self) -> None:
        self._senders: list[Sender] = []

    def add(self, update: Update) -> None:
        """Note one client."""
        self._senders.append(Sender(update.client, update.numbers))

    def total(self) -> tuple[Sender, ...]:
        """Everyone, in client order."""
        return tuple(self._senders)


class Both(Reducer[tuple[First, Second]]):
    """Two reducers over the same updates."""

    def __init__(self, first: Reducer[First], second: Reducer[Second]) -> None:
        self._first, self._second = first, second

    def add(self, update: Update) -> None:
        """Add one client's update to both."""
        self._first.add(update)
        self._second.add(update)

    def total(self) -> tuple[First, Second]:
        """Both totals."""
        return self._first.total(), self._second.total()


class HeadMean:
    """The mean of the heads that came, weighted by examples; summed in float64."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._weight = 0.0

    def add(self, update: Update) -> None:
        """Add one client's head."""
        for name, tensor in update.head.items():
            self._sums[name] = self._sums.get(name, 0.0) + update.weight * tensor.double()
        self._weight += update.weight

    def total(self) -> Tensors:
        """By parameter, in float32; empty where no head came."""
        return {name: (total / self._weight).float() for name, total in self._sums.items()}


class HeadCentre:
    """A robust centre of the heads that came, coordinate by coordinate; clients count alike."""

    def __init__(self, trim: float | None) -> None:
        self._trim = trim
        self._heads: dict[str, list[Tensor]] = {}

    def add(self, update: Update) -> None:
        """Keep one client's head."""
        for name, tensor in update.head.items():
            self._heads.setdefault(name, []).append(tensor.double())

    def total(self) -> Tensors:
        """By parameter, in float32; empty where no head came."""
        return {name: centre_of(torch.stack(sent), self._trim).float() for name, sent in self._heads.items()}


def factors(update: Update) -> Adapter:
    """Both factors of an update that holds them as tensors.

    Raises:
        PayloadError: it holds chosen slots, or lacks a side.
    """
    sides: dict[Side, dict[str, Tensor]] = {}
    for side in SIDES:
        entries = update.sides.get(side, {})
        sides[side] = {module: sent for module, sent in entries.items() if isinstance(sent, Tensor)}
        if not entries or len(sides[side]) != len(entries):
            raise PayloadError(f"the update of client {update.client.id} does not hold the whole {side} side")
    return Adapter(sides["input"], sides["output"])
