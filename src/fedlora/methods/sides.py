# SPDX-License-Identifier: Apache-2.0
"""Sides in payloads: what methods send, how it is read, and what is made of it."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fedlora.core.adapter import SIDES, Adapter, AdapterSpec, Sides, Tensors, first_slots
from fedlora.core.kinds import Side, side_shape, slot_axis
from fedlora.errors import PayloadError


def sides_of(adapter: Adapter, sides: Sides) -> dict[str, Tensors]:
    """Some sides of an adapter, as a payload."""
    return {side: adapter.side(side) for side in SIDES if side in sides}


def send(adapter: Adapter, sides: Sides, slots: Mapping[str, int], implied_zeros: bool) -> dict[str, Tensors]:
    """A payload with the first slots of some sides, leaving out sides of zeros if so asked."""
    payload: dict[str, Tensors] = {}
    for side in SIDES:
        if side in sides:
            tensors = first_slots(adapter.kind, side, adapter.side(side), slots)
            if not implied_zeros or any(bool(tensor.any()) for tensor in tensors.values()):
                payload[side] = tensors
    return payload


def complete(found: Mapping[Side, Tensors], spec: AdapterSpec) -> Adapter:
    """An adapter from what was found of its two sides, zeros standing in for a side that is missing.

    Raises:
        PayloadError: modules or shapes are not the spec's.
    """
    sides: dict[Side, dict[str, Tensor]] = {"input": {}, "output": {}}
    for module, shape in spec.shapes.items():
        present = {side: found[side][module] for side in SIDES if module in found[side]}
        if not present and spec.kind != "dense":
            raise PayloadError(f"nothing was sent for module {module!r}")
        axes = {side: slot_axis(spec.kind, side) for side in present}
        slots = [t.shape[axis] for side, t in present.items() if (axis := axes[side]) is not None and t.ndim == 2]
        for side in SIDES:
            expected = side_shape(spec.kind, side, shape, min(slots, default=spec.rank))
            if expected is None:
                continue
            tensor = present.get(side, torch.zeros(expected))
            if tuple(tensor.shape) != expected:
                raise PayloadError(f"the {side} side of {module!r} is {tuple(tensor.shape)}, not {expected}")
            sides[side][module] = tensor
    return Adapter(sides["input"], sides["output"], kind=spec.kind)
