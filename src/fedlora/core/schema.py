# SPDX-License-Identifier: Apache-2.0
"""What an answer may hold, said by the server before the answer comes.

A method says what it expects of one client in one round (`UploadSchema`); the loop adds what is the same for all
methods (`ReplySchema`). Whatever is not said here is refused in validation.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

import torch

from fedlora.core.adapter import SIDES, AdapterSpec, Sides
from fedlora.core.kinds import Shape, side_shape
from fedlora.core.metrics import Scoring
from fedlora.core.slots import index_type

Shapes = Mapping[str, Shape]
"""Module (or parameter) name -> shape."""

_NAMING = 256
"""Header bytes for one tensor, besides its name: type, shape, offsets, and its place in the tree."""
_ESCAPED = 16
"""Header bytes that one character of a name can take: twice escaped, as a pair of surrogates."""


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """Slots of one side that the client picks: of each module their numbers and their vectors."""

    pool: Shapes
    """One side of every module with all slots that there are to choose from."""
    axis: int
    """Along which the slots lie."""
    budget: int
    """What all chosen slots may cost together."""
    prices: Mapping[str, int]
    """What one slot of a module costs."""

    def count(self, module: str) -> int:
        """How many slots a module has to choose from."""
        return self.pool[module][self.axis]

    def index(self, module: str) -> torch.dtype:
        """The type in which a module's slot numbers travel."""
        return index_type(self.count(module))

    def most_bytes(self, wire: torch.dtype) -> int:
        """What the vectors and numbers can weigh: the whole pool, or the budget spent where a byte is cheapest."""
        weights = {
            module: prod(shape) // max(self.count(module), 1) * wire.itemsize + self.index(module).itemsize
            for module, shape in self.pool.items()
        }
        everything = sum(weight * self.count(module) for module, weight in weights.items())
        densest = max((-(-weight // self.prices[module]) for module, weight in weights.items()), default=0)
        return min(everything, self.budget * densest)


@dataclass(frozen=True, slots=True, eq=False)
class UploadSchema:
    """What a client's upload may hold of the method's own."""

    wholes: tuple[Mapping[str, Shapes], ...] = ({},)
    """Key of the payload -> module -> shape, all in the wire's type. Where there are several, exactly one of them."""
    chosen: Mapping[str, Chosen] = field(default_factory=dict)
    """Key of the payload -> the slots that the client may pick."""
    numbers: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Key of the payload -> from where to where; a number that may come or not."""


@dataclass(frozen=True, slots=True, eq=False)
class ReplySchema:
    """What one answer must keep to. They stay with the server."""

    expected: UploadSchema
    """The method's own part."""
    head: Shapes
    """The dense parts; empty where heads do not travel."""
    wire: torch.dtype
    """The type of every floating-point tensor."""
    norm: float | None = None
    """The largest Euclidean norm of all that came together; None: any finite one."""
    scoring: Scoring | None = None
    """Where a score is asked for, and nothing else: what it may hold. None: no score."""

    def most_header(self) -> int:
        """How long the header of the encoded payload can be, in bytes."""
        whole = [name for side in self._largest().values() for name in side]
        picked = [name for own in self.expected.chosen.values() for name in own.pool for _ in ("slots", "values")]
        named = [*whole, *picked, *self.head, *self.expected.numbers, *self.expected.chosen, *self._largest()]
        return 1024 + sum(_NAMING + _ESCAPED * len(name) for name in named)

    def most_bytes(self) -> int:
        """How long the encoded payload can be."""
        whole = sum(prod(shape) for side in (*self._largest().values(), self.head) for shape in side.values())
        picked = sum(own.most_bytes(self.wire) for own in self.expected.chosen.values())
        return 8 + self.most_header() + whole * self.wire.itemsize + picked

    def _largest(self) -> Mapping[str, Shapes]:
        return max(self.expected.wholes, key=lambda own: sum(prod(s) for side in own.values() for s in side.values()))


def whole_sides(spec: AdapterSpec, sides: Sides, slots: Mapping[str, int]) -> dict[str, Shapes]:
    """The shapes of some sides, whole.

    Args:
        spec: the adapter.
        sides: which ones.
        slots: how many of each module, where the kind has slots.
    """
    result: dict[str, Shapes] = {}
    for side in SIDES:
        if side in sides:
            found = {module: side_shape(spec.kind, side, own, slots[module]) for module, own in spec.shapes.items()}
            result[side] = {module: shape for module, shape in found.items() if shape is not None}
    return result
