# SPDX-License-Identifier: Apache-2.0
"""Slots across clients: sums that know who owns which slot, scores, and the choice of the best.

Most rules of federated low-rank training are the same sum read in different ways. With clients that
send different slots, `slot_sums` adds up every slot over those who sent it and keeps their weight:

* divided by all clients' weight: zero padding, or the mean delta with zeros for missing slots;
* divided by the owners' weight: replication padding, or the mean over owners.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlora.core.adapter import SIDES, Adapter, Tensors
from fedlora.core.kinds import Kind, Side, slot_axis
from fedlora.errors import ParcelError


@dataclass(frozen=True, slots=True, eq=False)
class Sparse:
    """Some slots of one side of one module."""

    slots: Tensor
    """Which ones, (k,), ascending, no repeats."""
    values: Tensor
    """The slots themselves: (k, d_in) of an input side, (d_out, k) of an output side."""


Part = Mapping[Side, Mapping[str, Tensor | Sparse]]
"""What one client contributes: of each side it sends, per module, its first slots or chosen ones."""


@dataclass(frozen=True, slots=True, eq=False)
class SlotSums:
    """sum_k w_k x_k of every slot, over the clients that sent it, in float64."""

    kind: Kind
    totals: Mapping[Side, Tensors]
    owned: Mapping[Side, Tensors]
    """Per slot (r,) the weight of the clients that sent it; () of a side without slots."""
    weight: float
    """The weight of all clients."""

    def mean(self, side: Side) -> dict[str, Tensor]:
        """Over all clients, a slot that a client did not send counting as zero."""
        return {module: total / self.weight for module, total in self.totals[side].items()}

    def owners_mean(self, side: Side) -> dict[str, Tensor]:
        """Over the clients that sent the slot; zero where nobody did."""
        result = {}
        for module, total in self.totals[side].items():
            owned = self.owned[side][module]
            result[module] = total / self._along(side, torch.where(owned > 0, owned, 1.0))
        return result

    def keep_unowned(self, side: Side, new: Tensors, old: Tensors) -> dict[str, Tensor]:
        """`new` where somebody sent the slot, `old` where nobody did; in the type of `old`."""
        result = {}
        for module, kept in old.items():
            mask = self._along(side, self.owned[side][module] > 0)
            result[module] = torch.where(mask, new[module].to(kept.dtype), kept)
        return result

    def _along(self, side: Side, per_slot: Tensor) -> Tensor:
        """A value per slot, shaped to meet the slots of that side."""
        return per_slot.unsqueeze(1) if slot_axis(self.kind, side) == 0 else per_slot


def slot_sums(like: Adapter, parts: Iterable[tuple[float, Part]]) -> SlotSums:
    """Add up what clients sent, slot by slot, in one pass and in the order given.

    Args:
        like: an adapter with every module and the full number of slots.
        parts: (weight, what the client sent); a client may leave out modules, whole sides or slots.

    Raises:
        ParcelError: a part names a module, a shape or a slot that `like` does not have.
    """
    totals: dict[Side, dict[str, Tensor]] = {"input": {}, "output": {}}
    owned: dict[Side, dict[str, Tensor]] = {"input": {}, "output": {}}
    for side in SIDES:
        axis = slot_axis(like.kind, side)
        for module, tensor in like.side(side).items():
            totals[side][module] = torch.zeros(tensor.shape, dtype=torch.float64)
            owned[side][module] = torch.zeros(() if axis is None else tensor.shape[axis], dtype=torch.float64)
    weight = 0.0
    for own_weight, part in parts:
        weight += own_weight
        for side, modules in part.items():
            for module, sent in modules.items():
                if module not in totals[side]:
                    raise ParcelError(f"module {module!r} is not part of this federation")
                axis = slot_axis(like.kind, side)
                index, values = _checked(side, module, sent, totals[side][module], axis)
                if axis is None or index is None:
                    totals[side][module] += own_weight * values.double()
                    owned[side][module] += own_weight
                else:
                    totals[side][module].index_add_(axis, index, own_weight * values.double())
                    owned[side][module][index] += own_weight
    return SlotSums(like.kind, totals, owned, weight)


def _checked(
    side: Side, module: str, sent: Tensor | Sparse, whole: Tensor, axis: int | None
) -> tuple[Tensor | None, Tensor]:
    """The slots that were sent (None: the side has none) and their values."""
    values = sent.values if isinstance(sent, Sparse) else sent
    expected, index = list(whole.shape), None
    if axis is not None and values.ndim == whole.ndim:
        index = sent.slots.long() if isinstance(sent, Sparse) else torch.arange(values.shape[axis])
        expected[axis] = index.numel()
    if list(values.shape) != expected or (isinstance(sent, Sparse) and index is None):
        raise ParcelError(f"the {side} side of {module!r} has shape {list(values.shape)}, not {expected}")
    if axis is not None and index is not None:
        within = index.numel() == 0 or (index.min() >= 0 and index.max() < whole.shape[axis])
        if not within or len(set(index.tolist())) != index.numel():
            raise ParcelError(f"the slots of {module!r} are not distinct numbers below {whole.shape[axis]}")
    return index, values


def norms(side: Side, tensor: Tensor) -> Tensor:
    """The Euclidean norm of every slot, (r,), in float64."""
    return tensor.double().square().sum(dim=1 if side == "input" else 0).sqrt()


def contribution(side: Side, moved: Tensors, other: Tensors) -> dict[str, Tensor]:
    """What every slot contributed to the change of B A: ||dB_i|| ||A_i||, or ||B_i|| ||dA_i||.

    The Frobenius norm of an outer product is the product of the two norms (LoRA-A2, section 4.2).

    Args:
        side: the side that moved.
        moved: its change, by module.
        other: the side that did not move, by module.
    """
    opposite: Side = "output" if side == "input" else "input"
    return {module: norms(side, change) * norms(opposite, other[module]) for module, change in moved.items()}


def top_slots(scores: Tensors, count: int) -> dict[str, Tensor]:
    """The `count` best slots over all modules together, as boolean masks (r,) by module.

    One choice for the whole model: a module may get none of its slots or all. Equal scores go to the
    earlier module, then the earlier slot.
    """
    sizes = [score.numel() for score in scores.values()]
    flat = torch.cat([score.double() for score in scores.values()])
    best = torch.sort(flat, descending=True, stable=True).indices[:count]
    chosen = torch.zeros(flat.numel(), dtype=torch.bool)
    chosen[best] = True
    return dict(zip(scores, torch.split(chosen, sizes), strict=True))


def index_type(slots: int) -> torch.dtype:
    """The smallest integer type that can name every one of `slots` slots."""
    return torch.uint8 if slots <= 256 else torch.int16 if slots <= 32768 else torch.int32
