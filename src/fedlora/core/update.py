# SPDX-License-Identifier: Apache-2.0
"""An update: what one client contributes to one round, all of it, with the algebra that stages need.

Between the client's half of a method and the server's half there is nothing else: the sides, the head and a few
numbers. Whatever bounds, compresses or hides what a client sends works on this value, so that no part of it can be
left out by mistake.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fedlora.core.adapter import SIDES, Tensors
from fedlora.core.kinds import Side
from fedlora.core.payload import Payload, Tree, branch, tensors_at
from fedlora.core.rounds import Client
from fedlora.core.slots import Content, Part, Sparse
from fedlora.errors import PayloadError

_Rule = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """What one client contributes."""

    client: Client
    """Who, and with which weight."""
    sides: Part = field(default_factory=dict)
    """Of each side that is sent, per module: its first slots as a tensor, or chosen ones."""
    head: Tensors = field(default_factory=dict)
    """The trained head, where heads are shared; always values."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """Further numbers that the method asked for, such as a validation score."""
    content: Content = "values"
    """Whether `sides` holds trained values, or their changes since the start."""

    @property
    def weight(self) -> float:
        """The client's; w_k is this over the sum of all accepted."""
        return self.client.weight

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor of numbers: side by side, module by module, and the head last."""
        for modules in self.sides.values():
            for sent in modules.values():
                yield sent.values if isinstance(sent, Sparse) else sent
        yield from self.head.values()

    def norm(self) -> float:
        """The Euclidean norm of everything together, the head included; summed in float64."""
        squares = sum(float(tensor.double().square().sum()) for tensor in self.tensors())
        return float(squares**0.5)

    def minus(self, start: "Update") -> "Update":
        """This less `start`, tensor by tensor. What `start` lacks counts as zero; of more slots the first count."""
        return self._combined(start, lambda mine, other: mine - other)

    def plus(self, start: "Update") -> "Update":
        """The inverse of `minus`."""
        return self._combined(start, lambda mine, other: mine + other)

    def scaled(self, factor: float) -> "Update":
        """Every tensor times a factor; numbers stay."""
        return self.mapped(lambda tensor: factor * tensor)

    def mapped(self, rule: Callable[[Tensor], Tensor]) -> "Update":
        """A rule over every tensor, one at a time; numbers stay."""
        return self._combined(self, lambda mine, _: rule(mine))

    def _combined(self, other: "Update", rule: _Rule) -> "Update":
        sides: dict[Side, dict[str, Tensor | Sparse]] = {}
        for side, modules in self.sides.items():
            others = other.sides.get(side, {})
            axis = 0 if side == "input" else 1
            sides[side] = {module: _entry(sent, others.get(module), axis, rule) for module, sent in modules.items()}
        head = {name: rule(mine, _like(mine, other.head.get(name))) for name, mine in self.head.items()}
        return replace(self, sides=sides, head=head)

    def to_payload(self) -> Payload:
        """The update as it travels; what is empty is left out."""
        sides: dict[str, Tree] = {
            side: {module: _packed(sent) for module, sent in modules.items()} for side, modules in self.sides.items()
        }
        whole: Payload = {"adapter": {**sides, **self.numbers}, "head": self.head}
        return {key: value for key, value in whole.items() if value}

    @staticmethod
    def from_payload(client: Client, payload: Payload, content: Content = "values") -> "Update":
        """The inverse of `to_payload`.

        Args:
            client: whose it is, as the server knows it: what a payload says of itself is not asked.
            payload: validated against the schema of the order.
            content: what this method's clients send.

        Raises:
            PayloadError: it is no update; one that came through validation is.
        """
        adapter = branch(payload, "adapter")
        sides: dict[Side, dict[str, Tensor | Sparse]] = {}
        for side in SIDES:
            if side in adapter:
                sides[side] = {module: _unpacked(module, sent) for module, sent in branch(adapter, side).items()}
        numbers: dict[str, float] = {}
        for key, value in adapter.items():
            if key not in SIDES:
                if not isinstance(value, int | float):
                    raise PayloadError(f"{key!r} should hold a number")
                numbers[key] = value
        return Update(client, sides, tensors_at(payload, "head"), numbers, content)


def _entry(mine: Tensor | Sparse, other: Tensor | Sparse | None, axis: int, rule: _Rule) -> Tensor | Sparse:
    """A rule over one entry. Chosen slots meet those of the same numbers; the slots lie along `axis`."""
    if isinstance(mine, Sparse):
        return Sparse(mine.slots, rule(mine.values, _at_slots(mine, other, axis)))
    return rule(mine, _like(mine, other if isinstance(other, Tensor) else None))


def _at_slots(mine: Sparse, other: Tensor | Sparse | None, axis: int) -> Tensor:
    """What the other entry holds at these slots, zeros where it holds none."""
    if isinstance(other, Tensor):
        return other.index_select(axis, mine.slots.long())
    found = torch.zeros_like(mine.values)
    if other is not None:
        here, there = (mine.slots[:, None] == other.slots[None, :]).nonzero(as_tuple=True)
        found.index_copy_(axis, here, other.values.index_select(axis, there))
    return found


def _like(mine: Tensor, other: Tensor | None) -> Tensor:
    """The other tensor in this one's shape: zeros where there is none, the first slots where it has more."""
    if other is None:
        return torch.zeros_like(mine)
    return other if other.shape == mine.shape else other[tuple(slice(size) for size in mine.shape)]


def _packed(sent: Tensor | Sparse) -> Tree:
    return {"slots": sent.slots, "values": sent.values} if isinstance(sent, Sparse) else sent


def _unpacked(module: str, sent: Tree) -> Tensor | Sparse:
    if isinstance(sent, Tensor):
        return sent
    if isinstance(sent, Mapping):
        slots, values = sent.get("slots"), sent.get("values")
        if isinstance(slots, Tensor) and isinstance(values, Tensor) and not slots.is_floating_point():
            return Sparse(slots, values)
    raise PayloadError(f"module {module!r} should hold a tensor, or slots and values")
