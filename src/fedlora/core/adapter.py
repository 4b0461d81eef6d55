# SPDX-License-Identifier: Apache-2.0
"""An adapter as a value: two sides by module, plus dense parts (heads). Never a model.

The *input side* of a LoRA module is A (r, d_in), the *output side* is B (d_out, r). Methods speak of
sides; where they need the product of one module they ask for the `LowRank` pair. On every side the
slots lie along one axis: the first of an input side, the last of an output side.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from fedlora.core.lowrank import LowRank, delta, pad
from fedlora.core.seeds import torch_stream

Side = Literal["input", "output"]
Sides = frozenset[Side]
Tensors = Mapping[str, Tensor]
"""Module (or parameter) name -> tensor, in the model's own order."""

INPUT: Sides = frozenset(("input",))
OUTPUT: Sides = frozenset(("output",))
BOTH: Sides = INPUT | OUTPUT
NEITHER: Sides = frozenset()
SIDES: tuple[Side, Side] = ("input", "output")
SLOT_AXIS: Mapping[Side, int] = {"input": 0, "output": -1}

HeadMode = Literal["shared", "frozen", "private"]


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """What a federation trains. Every module that is on one side is on the other."""

    input: Tensors
    """A of every module, (r, d_in)."""
    output: Tensors
    """B of every module, (d_out, r)."""
    dense: Tensors = field(default_factory=dict)
    """Heads and other whole parameters by name; empty means the base's own."""

    def side(self, side: Side) -> Tensors:
        """All tensors of one side."""
        return self.input if side == "input" else self.output

    def pair(self, module: str) -> LowRank:
        """The two factors of one module."""
        return LowRank(self.input[module], self.output[module])

    def with_side(self, side: Side, tensors: Tensors) -> "Adapter":
        """The same adapter with one side replaced."""
        return replace(self, input=tensors) if side == "input" else replace(self, output=tensors)

    def with_dense(self, dense: Tensors) -> "Adapter":
        """The same factors with other dense parts."""
        return replace(self, dense=dense)

    def ranks(self) -> dict[str, int]:
        """The number of slots of every module."""
        return {module: A.shape[0] for module, A in self.input.items()}


@dataclass(frozen=True, slots=True, eq=False)
class AdapterSpec:
    """What all members of a federation agree on before the first round."""

    shapes: Mapping[str, tuple[int, int]]
    """Module -> (d_out, d_in), in the model's own order. N = its length."""
    rank: int
    """The largest rank or budget of any client."""
    scale: float
    """s in W0 + s B A: one number of the whole federation, applied at the model's door and nowhere else."""
    kind: Literal["lora"] = "lora"
    head: HeadMode = "frozen"
    """What becomes of the dense parts: averaged, left as the base has them, or kept by each client."""
    start: Adapter | None = None
    """An adapter to go on from, at this spec's scale, instead of a fresh one."""


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """Where a client's training or evaluation begins."""

    adapter: Adapter
    fold: Mapping[str, LowRank | Tensor] = field(default_factory=dict)
    """What belongs to the base's weights: the model computes with W0 + s (fold + B A). A pair where that
    is cheaper, else the dense (d_out, d_in) sum; always the total since W0."""


def on_device(start: Start, device: str) -> Start:
    """The same values on another device."""

    def moved(tensors: Tensors) -> dict[str, Tensor]:
        return {name: tensor.to(device) for name, tensor in tensors.items()}

    own = start.adapter
    fold: dict[str, LowRank | Tensor] = {}
    for module, value in start.fold.items():
        if isinstance(value, LowRank):
            fold[module] = LowRank(value.A.to(device), value.B.to(device))
        else:
            fold[module] = value.to(device)
    return Start(Adapter(moved(own.input), moved(own.output), moved(own.dense)), fold)


def effective(start: Start, scale: float) -> dict[str, Tensor]:
    """s (fold + B A) of every module, (d_out, d_in) in float64: what the model computes beyond W0."""
    result = {}
    for module in start.adapter.input:
        pair = start.adapter.pair(module)
        total = delta(LowRank(pair.A.double(), pair.B.double()))
        folded = start.fold.get(module)
        if isinstance(folded, LowRank):
            total = total + delta(LowRank(folded.A.double(), folded.B.double()))
        elif folded is not None:
            total = total + folded.double()
        result[module] = scale * total
    return result


def fresh_adapter(spec: AdapterSpec, rank: int, seed: int) -> Adapter:
    """The start of a run: A ~ N(0, 1/d_in) and B = 0, or the spec's start with such slots behind it.

    Each module draws from a stream of its own, and row i of A is the same whatever the rank.

    Raises:
        ValueError: the spec's start has more than `rank` slots in some module.
    """
    inputs, outputs = {}, {}
    for module, (d_out, d_in) in spec.shapes.items():
        generator = torch_stream(seed, "adapter", module)
        rows = [torch.randn(d_in, generator=generator) / d_in**0.5 for _ in range(rank)]
        A, B = torch.stack(rows), torch.zeros(d_out, rank)
        if spec.start is not None:
            given = pad(spec.start.pair(module), rank)
            own = spec.start.input[module].shape[0]
            A, B = torch.cat([given.A[:own], A[own:]]), given.B
        inputs[module], outputs[module] = A, B
    return Adapter(inputs, outputs)


def first_slots(side: Side, tensors: Tensors, rank: int) -> dict[str, Tensor]:
    """The first `rank` slots of one side of every module."""
    axis = SLOT_AXIS[side]
    return {module: t.narrow(axis, 0, min(rank, t.shape[axis])) for module, t in tensors.items()}


def parameters(tensors: Tensors) -> int:
    """How many scalars the tensors hold."""
    return sum(tensor.numel() for tensor in tensors.values())
