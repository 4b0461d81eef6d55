# SPDX-License-Identifier: Apache-2.0
"""An adapter as a value: two sides by module, plus dense parts (heads). Never a model.

The *input side* of a LoRA module is A (r, d_in), the *output side* is B (d_out, r); `kinds.py` has the
other kinds. Methods speak of sides; where they need the product of one module they ask for the `LowRank`
pair.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from fedlora.core.kinds import Kind, Shape, Side, added, fresh_side, slot_axis
from fedlora.core.lowrank import LowRank, delta, pad
from fedlora.core.seeds import torch_stream
from fedlora.core.settings import AboveZero, Positive

Sides = frozenset[Side]
Tensors = Mapping[str, Tensor]
"""Module (or parameter) name -> tensor, in the model's order."""

INPUT: Sides = frozenset(("input",))
OUTPUT: Sides = frozenset(("output",))
BOTH: Sides = INPUT | OUTPUT
NEITHER: Sides = frozenset()
SIDES: tuple[Side, Side] = ("input", "output")

HeadMode = Literal["shared", "frozen", "private"]


@dataclass(frozen=True)
class AdapterSettings:
    """The adapter, which is what is trained."""

    kind: Kind = "lora"
    """lora: two low-rank factors for each linear map; vera: two vectors for each map over one frozen random pair;
    dense: every parameter (full fine-tuning)."""
    rank: Positive = 8
    """Rank or budget of every client; ignored where clients.ranks is set, whose largest is taken then."""
    alpha: AboveZero = 16.0
    """Numerator of the LoRA scale, which is alpha / rank (rslora: alpha / square root of the rank)."""
    scaling: Literal["classic", "rslora"] = "classic"
    """classic: the scale is alpha / rank; rslora: alpha / square root of the rank."""
    scale: AboveZero | None = None
    """The LoRA scale itself, instead of alpha and scaling."""
    targets: list[str] | Literal["all-linear"] | None = None
    """The linear maps to adapt, by the ends of their names, such as ["query", "value"]; by default, and as all-linear,
    every linear map of the layers, never a head or the product with the vocabulary."""
    layers: list[int] | None = None
    """Numbers of the layers to adapt, counted from 0; by default all."""
    head: HeadMode = "shared"
    """The classification head; shared: trained and averaged like the adapter; frozen: left as it was initialised;
    private: trained and kept by each client."""
    head_std: AboveZero | None = None
    """Standard deviation of the classification head's weights as they are drawn; by default the base's usual one, 0.02
    for most. With a frozen head a larger one, such as 0.5, makes much of what is learned visible."""
    start: str | None = None
    """A PEFT folder with an adapter to start from; by default a fresh one."""


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """What a federation trains."""

    input: Tensors
    """The input side of every module: A (r, d_in)."""
    output: Tensors
    """The output side of every module: B (d_out, r)."""
    dense: Tensors = field(default_factory=dict)
    """Heads and other whole parameters by name; empty means the base's."""
    kind: Kind = "lora"

    def side(self, side: Side) -> Tensors:
        """All tensors of one side."""
        return self.input if side == "input" else self.output

    def pair(self, module: str) -> LowRank:
        """The two factors of one module, of a LoRA adapter."""
        return LowRank(self.input[module], self.output[module])

    def with_side(self, side: Side, tensors: Tensors) -> "Adapter":
        """The same adapter with one side replaced."""
        return replace(self, input=tensors) if side == "input" else replace(self, output=tensors)

    def with_dense(self, dense: Tensors) -> "Adapter":
        """The same factors with other dense parts."""
        return replace(self, dense=dense)

    def shapes(self) -> dict[str, tuple[int, int]]:
        """(d_out, d_in) of every module, of a LoRA adapter."""
        return {module: (self.output[module].shape[0], A.shape[1]) for module, A in self.input.items()}

    def ranks(self) -> dict[str, int]:
        """The number of slots of every module."""
        return {module: A.shape[0] for module, A in self.input.items()}


@dataclass(frozen=True, slots=True, eq=False)
class AdapterSpec:
    """What all members of a federation agree on before the first round."""

    shapes: Mapping[str, Shape]
    """Module -> (d_out, d_in), in the model's order; of a dense adapter, parameter -> its shape."""
    rank: int
    """The largest rank or budget of any client."""
    scale: float
    """s in W0 + s B A: one number of the whole federation, applied in the forward pass and nowhere else."""
    kind: Kind = "lora"
    head: HeadMode = "frozen"
    """What becomes of the dense parts: averaged, left as the base has them, or kept by each client."""
    start: Adapter | None = None
    """An adapter to go on from, at this spec's scale, instead of a fresh one."""
    projection: LowRank | None = None
    """VeRA's frozen pair for the whole model."""
    wire: torch.dtype = torch.float32
    """The floating-point type in which tensors travel."""


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """Where a client's training or evaluation begins."""

    adapter: Adapter
    merged: Mapping[str, LowRank | Tensor] = field(default_factory=dict)
    """What belongs to the base's weights: the model computes with W0 + s (merged update + B A). A pair where that
    is cheaper, else the dense (d_out, d_in) sum; always the total since W0."""


def on_device(start: Start, device: str) -> Start:
    """The same values on another device."""

    def moved(tensors: Tensors) -> dict[str, Tensor]:
        return {name: tensor.to(device) for name, tensor in tensors.items()}

    adapter = start.adapter
    merged: dict[str, LowRank | Tensor] = {}
    for module, value in start.merged.items():
        if isinstance(value, LowRank):
            merged[module] = LowRank(value.A.to(device), value.B.to(device))
        else:
            merged[module] = value.to(device)
    return Start(Adapter(moved(adapter.input), moved(adapter.output), moved(adapter.dense), adapter.kind), merged)


def additions(start: Start, spec: AdapterSpec) -> dict[str, list[LowRank | Tensor]]:
    """Per module what its weight gets besides W0, without the scale: the adapter's product, then the merged update."""
    adapter = start.adapter
    result: dict[str, list[LowRank | Tensor]] = {}
    for module, shape in spec.shapes.items():
        sides: dict[Side, Tensor] = {"output": adapter.output[module]}
        if module in adapter.input:
            sides["input"] = adapter.input[module]
        result[module] = [added(adapter.kind, sides, shape, spec.projection)]
        if module in start.merged:
            result[module].append(start.merged[module])
    return result


def without_idle_slots(start: Start) -> Start:
    """The same model without the slots of a LoRA adapter that add nothing: zeros on one side, finite numbers on the
    other. Clients that were sent one model may have drawn such slots differently."""
    adapter = start.adapter
    if adapter.kind != "lora":
        return start
    inputs, outputs = dict(adapter.input), dict(adapter.output)
    for module, A in adapter.input.items():
        B = adapter.output[module]
        finite = A.isfinite().all(dim=1) & B.isfinite().all(dim=0)
        adds = (A.any(dim=1) & B.any(dim=0)) | ~finite
        if not bool(adds.all()):
            inputs[module], outputs[module] = A[adds], B[:, adds]
    return replace(start, adapter=replace(adapter, input=inputs, output=outputs))


def effective(start: Start, spec: AdapterSpec) -> dict[str, Tensor]:
    """s (merged update + B A) of every module, (d_out, d_in) in float64: what the model computes beyond W0."""
    result = {}
    for module, parts in additions(start, spec).items():
        wide = [LowRank(p.A.double(), p.B.double()) if isinstance(p, LowRank) else p.double() for p in parts]
        total = sum(delta(part) if isinstance(part, LowRank) else part for part in wide)
        result[module] = torch.as_tensor(spec.scale * total)
    return result


def fresh_adapter(spec: AdapterSpec, rank: int, seed: int) -> Adapter:
    """The start of a run at a rank: fresh sides, or the spec's start, with fresh slots behind it where there are slots.

    Each module draws from a stream of its own.

    Raises:
        ValueError: the spec's start has more than `rank` slots in some module.
    """
    sides: dict[Side, dict[str, Tensor]] = {"input": {}, "output": {}}
    for module, shape in spec.shapes.items():
        for side in SIDES:
            tensor = fresh_side(spec.kind, side, shape, rank, torch_stream(seed, "adapter", module))
            if tensor is not None:
                sides[side][module] = tensor
        if spec.start is not None and spec.kind != "lora":
            sides["input"] |= {module: spec.start.input[module]}
            sides["output"] |= {module: spec.start.output[module]}
        elif spec.start is not None:
            given, count = pad(spec.start.pair(module), rank), spec.start.input[module].shape[0]
            sides["input"][module] = torch.cat([given.A[:count], sides["input"][module][count:]])
            sides["output"][module] = given.B
    return Adapter(sides["input"], sides["output"], kind=spec.kind)


def first_slots(kind: Kind, side: Side, tensors: Tensors, slots: Mapping[str, int]) -> dict[str, Tensor]:
    """The first so many slots of one side of every module; a side without slots is taken whole."""
    axis = slot_axis(kind, side)
    if axis is None:
        return dict(tensors)
    return {module: t.narrow(axis, 0, min(slots[module], t.shape[axis])) for module, t in tensors.items()}


def parameters(tensors: Tensors) -> int:
    """How many scalars the tensors hold."""
    return sum(tensor.numel() for tensor in tensors.values())
