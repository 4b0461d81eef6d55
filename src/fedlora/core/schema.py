# SPDX-License-Identifier: Apache-2.0
"""Upload schemas: what an answer may hold, fixed by the server before the answer comes.

A method says what it expects of one client in one round (`UploadSchema`); the loop adds what is the same for all
methods (`ReplySchema`). Every tensor has a shape and a type (`TensorSpec`), from which validation, the largest size
in bytes and the length of the header follow. Whatever is not said here is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

import torch

from fedlora.core.adapter import SIDES, AdapterSpec, Sides
from fedlora.core.kinds import Shape, Side, side_shape
from fedlora.core.metrics import Scoring
from fedlora.core.slots import Content, index_type

_NAMING = 256
"""Header bytes for one tensor, besides its name: type, shape, offsets, and its place in the tree."""
_ESCAPED = 16
"""Header bytes that one character of a name can take: twice escaped, as a pair of surrogates."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What one tensor must be."""

    shape: Shape
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """What its numbers weigh."""
        return prod(self.shape) * self.dtype.itemsize


TensorSpecs = Mapping[str, TensorSpec]
"""Module (or parameter) name -> what its tensor must be."""


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """Slots of one side that the client picks: of each module their numbers and their vectors."""

    pool: TensorSpecs
    """One side of every module with all slots that there are to choose from."""
    axis: int
    """Along which the slots lie."""
    budget: int
    """What all chosen slots may cost together."""
    prices: Mapping[str, int]
    """What one slot of a module costs."""

    def count(self, module: str) -> int:
        """How many slots a module has to choose from."""
        return self.pool[module].shape[self.axis]

    def index(self, module: str) -> torch.dtype:
        """The type in which a module's slot numbers travel."""
        return index_type(self.count(module))

    def most_bytes(self) -> int:
        """What the vectors and numbers can weigh: the whole pool, or the budget spent where a byte is cheapest."""
        weights = {
            module: whole.bytes // max(self.count(module), 1) + self.index(module).itemsize
            for module, whole in self.pool.items()
        }
        everything = sum(weight * self.count(module) for module, weight in weights.items())
        densest = max((-(-weight // self.prices[module]) for module, weight in weights.items()), default=0)
        return min(everything, self.budget * densest)


@dataclass(frozen=True, slots=True, eq=False)
class UploadSchema:
    """What the method's part of a client's upload may hold."""

    wholes: tuple[Mapping[Side, TensorSpecs], ...] = ({},)
    """Side -> module -> its tensor. Where there are several, exactly one of them."""
    chosen: Mapping[Side, Chosen] = field(default_factory=dict)
    """Side -> the slots that the client may pick."""
    numbers: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Name -> from where to where; a number that may come or not."""


@dataclass(frozen=True, slots=True, eq=False)
class ReplySchema:
    """What one answer must keep to. It stays with the server."""

    expected: UploadSchema
    """The part that the method asked for."""
    head: TensorSpecs = field(default_factory=dict)
    """The head's tensors; empty where heads do not travel."""
    content: Content = "values"
    """Whether the sides come as values or as changes."""
    norm: float | None = None
    """The largest Euclidean norm of all that came together; None: any finite one."""
    scoring: Scoring | None = None
    """Where a score is asked for, and nothing else: what it may hold. None: no score."""

    def most_header(self) -> int:
        """How long the header of the encoded payload can be, in bytes."""
        whole = [name for side in self._largest().values() for name in side]
        picked = [name for chosen in self.expected.chosen.values() for name in chosen.pool for _ in ("slots", "values")]
        named = [*whole, *picked, *self.head, *self.expected.numbers, *self.expected.chosen, *self._largest()]
        return 1024 + sum(_NAMING + _ESCAPED * len(name) for name in named)

    def most_bytes(self) -> int:
        """How long the encoded payload can be."""
        whole = sum(tensor.bytes for side in (*self._largest().values(), self.head) for tensor in side.values())
        return 8 + self.most_header() + whole + sum(chosen.most_bytes() for chosen in self.expected.chosen.values())

    def _largest(self) -> Mapping[Side, TensorSpecs]:
        def size(sides: Mapping[Side, TensorSpecs]) -> int:
            return sum(tensor.bytes for side in sides.values() for tensor in side.values())

        return max(self.expected.wholes, key=size)


def tensor_specs(shapes: Mapping[str, Shape], dtype: torch.dtype) -> dict[str, TensorSpec]:
    """Tensors of these shapes, all of one type."""
    return {name: TensorSpec(shape, dtype) for name, shape in shapes.items()}


def whole_sides(spec: AdapterSpec, sides: Sides, slots: Mapping[str, int]) -> dict[Side, TensorSpecs]:
    """Some sides, whole, in the wire's type.

    Args:
        spec: the adapter.
        sides: which ones.
        slots: how many of each module, where the kind has slots.
    """
    result: dict[Side, TensorSpecs] = {}
    for side in SIDES:
        if side in sides:
            found = {module: side_shape(spec.kind, side, shape, slots[module]) for module, shape in spec.shapes.items()}
            result[side] = tensor_specs({m: shape for m, shape in found.items() if shape is not None}, spec.wire)
    return result
