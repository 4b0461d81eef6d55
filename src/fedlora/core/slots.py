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

from fedlora.core.adapter import SIDES, SLOT_AXIS, Adapter, Side, Tensors
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

    totals: Mapping[Side, Tensors]
    owned: Mapping[Side, Tensors]
    """Per slot (r,) the weight of the clients that sent it."""
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
            result[module] = total / _along(side, total, torch.where(owned > 0, owned, 1.0))
        return result

    def keep_unowned(self, side: Side, new: Tensors, old: Tensors) -> dict[str, Tensor]:
        """`new` where somebody sent the slot, `old` where nobody did; in the type of `old`."""
        result = {}
        for module, kept in old.items():
            mask = _along(side, kept, self.owned[side][module] > 0)
            result[module] = torch.where(mask, new[module].to(kept.dtype), kept)
        return result


def slot_sums(like: Adapter, parts: Iterable[tuple[float, Part]]) -> SlotSums:
    """Add up what clients sent, slot by slot, in one pass and in the order given.

    Args:
        like: an adapter with every module and the full number of slots.
        parts: (weight, what the client sent); a client may leave out modules, whole sides or slots.

    Raises:
        ParcelError: a part names a module, a shape or a slot that `like` does not have.
    """
    totals: dict[Side, dict[str, Tensor]] = {}
    owned: dict[Side, dict[str, Tensor]] = {}
    for side in SIDES:
        whole = like.side(side)
        slots = {module: tensor.shape[SLOT_AXIS[side]] for module, tensor in whole.items()}
        totals[side] = {m: torch.zeros(tensor.shape, dtype=torch.float64) for m, tensor in whole.items()}
        owned[side] = {m: torch.zeros(count, dtype=torch.float64) for m, count in slots.items()}
    weight = 0.0
    for own_weight, part in parts:
        weight += own_weight
        for side, modules in part.items():
            for module, sent in modules.items():
                if module not in totals[side]:
                    raise ParcelError(f"module {module!r} is not part of this federation")
                index, values = _indexed(side, sent)
                _check(side, module, index, values, totals[side][module])
                totals[side][module].index_add_(SLOT_AXIS[side], index, own_weight * values.double())
                owned[side][module][index] += own_weight
    return SlotSums(totals, owned, weight)


def _indexed(side: Side, sent: Tensor | Sparse) -> tuple[Tensor, Tensor]:
    if isinstance(sent, Sparse):
        return sent.slots.long(), sent.values
    return torch.arange(sent.shape[SLOT_AXIS[side]]), sent


def _check(side: Side, module: str, index: Tensor, values: Tensor, whole: Tensor) -> None:
    axis = SLOT_AXIS[side]
    expected = list(whole.shape)
    expected[axis] = index.numel()
    if list(values.shape) != expected:
        raise ParcelError(f"the {side} side of {module!r} has shape {list(values.shape)}, not {expected}")
    within = index.numel() == 0 or (index.min() >= 0 and index.max() < whole.shape[axis])
    if not within or len(set(index.tolist())) != index.numel():
        raise ParcelError(f"the slots of {module!r} are not distinct numbers below {whole.shape[axis]}")


def _along(side: Side, tensor: Tensor, per_slot: Tensor) -> Tensor:
    """A value per slot, shaped to meet the slot axis of `tensor`."""
    return per_slot if side == "output" or tensor.ndim == 1 else per_slot.unsqueeze(1)


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
