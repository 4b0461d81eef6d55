# SPDX-License-Identifier: Apache-2.0
"""Slots across clients: sums that know who owns which slot, scores, and the choice of the best.

Most rules of federated low-rank training are the same sum read in different ways. With clients that
send different slots, `slot_sums` adds up every slot over those who sent it and keeps their weight:

* divided by all clients' weight: zero padding, or the mean delta with zeros for missing slots;
* divided by the owners' weight: replication padding, or the mean over owners.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fedlora.core.adapter import BOTH, SIDES, Adapter, Sides, Tensors
from fedlora.core.kinds import Kind, Side, slot_axis
from fedlora.errors import PayloadError


@dataclass(frozen=True, slots=True, eq=False)
class Sparse:
    """Some slots of one side of one module."""

    slots: Tensor
    """Which ones, (k,), ascending, no repeats."""
    values: Tensor
    """The slots themselves: (k, d_in) of an input side, (d_out, k) of an output side."""


Content = Literal["values", "changes"]
"""Whether a client sends what it trained, or by how much that differs from its start."""

Part = Mapping[Side, Mapping[str, Tensor | Sparse]]
"""What one client contributes: of each side it sends, per module, its first slots or chosen ones."""


def whole(adapter: Adapter, sides: Sides = BOTH) -> Part:
    """A client that contributes all of some sides of an adapter."""
    return {side: adapter.side(side) for side in SIDES if side in sides}


@dataclass(frozen=True, slots=True, eq=False)
class SlotSums:
    """sum_k w_k x_k of every slot, over the clients that sent it, in float64."""

    kind: Kind
    totals: Mapping[Side, Tensors]
    owned: Mapping[Side, Tensors]
    """Per slot (r,) the weight of the clients that sent it; () of a side without slots."""
    weight: Mapping[str, float]
    """By module, the weight of all clients."""

    def mean(self, side: Side) -> dict[str, Tensor]:
        """Over all clients, a slot that a client did not send counting as zero."""
        return {module: total / self.weight[module] for module, total in self.totals[side].items()}

    def owners_mean(self, side: Side) -> dict[str, Tensor]:
        """Over the clients that sent the slot; zero where nobody did."""
        result = {}
        for module, total in self.totals[side].items():
            owned = self.owned[side][module]
            result[module] = total / self._along(side, torch.where(owned > 0, owned, 1.0))
        return result

    def keep_unowned(self, side: Side, new: Tensors, old: Tensors) -> dict[str, Tensor]:
        """`new` where somebody sent the slot, `old` where nobody did; in the type of `old`."""
        return keep_where(self.kind, side, self.owned[side], new, old)

    def _along(self, side: Side, per_slot: Tensor) -> Tensor:
        return along(self.kind, side, per_slot)


def along(kind: Kind, side: Side, per_slot: Tensor) -> Tensor:
    """A value per slot, shaped to meet the slots of that side."""
    return per_slot.unsqueeze(1) if slot_axis(kind, side) == 0 else per_slot


def changed_slots(kind: Kind, side: Side, change: Tensor) -> Tensor:
    """Which slots of one side of one module changed at all, as a mask that meets it."""
    axis = slot_axis(kind, side)
    if axis is None:
        return change.ne(0).any()
    return change.ne(0).any(dim=1 if axis == 0 else 0, keepdim=True)


def keep_where(kind: Kind, side: Side, owned: Tensors, new: Tensors, old: Tensors) -> dict[str, Tensor]:
    """`new` where a slot's weight is positive, `old` elsewhere; in the type of `old`."""
    return {
        module: torch.where(along(kind, side, owned[module] > 0), new[module].to(kept.dtype), kept)
        for module, kept in old.items()
    }


def slot_sums(like: Adapter, parts: Iterable[tuple[float, Part]]) -> SlotSums:
    """Add up what clients sent, slot by slot, in one pass and in the order given.

    Args:
        like: an adapter with every module and the full number of slots.
        parts: (weight, what the client sent); a client may leave out modules, whole sides or slots.

    Raises:
        PayloadError: a part names a module, a shape or a slot that `like` does not have.
    """
    adder = SlotAdder(like)
    for weight, part in parts:
        adder.add(weight, part)
    return adder.sums()


class SlotAdder:
    """`slot_sums`, client by client."""

    def __init__(self, like: Adapter) -> None:
        self._kind = like.kind
        self._totals: dict[Side, dict[str, Tensor]] = {"input": {}, "output": {}}
        self._owned: dict[Side, dict[str, Tensor]] = {"input": {}, "output": {}}
        self._weight: dict[str, float] = {}
        for side in SIDES:
            axis = slot_axis(like.kind, side)
            for module, tensor in like.side(side).items():
                self._totals[side][module] = torch.zeros(tensor.shape, dtype=torch.float64)
                self._owned[side][module] = torch.zeros(() if axis is None else tensor.shape[axis], dtype=torch.float64)
                self._weight[module] = 0.0

    def add(self, weight: float | Mapping[str, float], part: Part) -> None:
        """Add one client, with one weight or with one for every module.

        Raises:
            PayloadError: see `slot_sums`.
        """
        weights = weight if isinstance(weight, Mapping) else dict.fromkeys(self._weight, weight)
        for module in self._weight:
            self._weight[module] += weights[module]
        for side, modules in part.items():
            for module, sent in modules.items():
                if module not in self._totals[side]:
                    raise PayloadError(f"module {module!r} is not part of this federation")
                total, owned = self._totals[side][module], self._owned[side][module]
                module_weight = weights[module]
                axis = slot_axis(self._kind, side)
                index, values = _checked(side, module, sent, total, axis)
                if axis is None or index is None:
                    total += module_weight * values.double()
                    owned += module_weight
                else:
                    total.index_add_(axis, index, module_weight * values.double())
                    owned[index] += module_weight

    def sums(self) -> SlotSums:
        """What was added up."""
        return SlotSums(self._kind, self._totals, self._owned, self._weight)


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
        raise PayloadError(f"the {side} side of {module!r} has shape {list(values.shape)}, not {expected}")
    if axis is not None and index is not None:
        within = index.numel() == 0 or (index.min() >= 0 and index.max() < whole.shape[axis])
        if not within or len(set(index.tolist())) != index.numel():
            raise PayloadError(f"the slots of {module!r} are not distinct numbers below {whole.shape[axis]}")
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


def sensitivity(side: Side, after: Tensors, gradient: Tensors) -> dict[str, Tensor]:
    """|weight times its mean gradient|, summed over every slot, (r,) by module, in float64.

    Args:
        side: the side that moved.
        after: its values when the training ended.
        gradient: the mean gradient of that training.
    """
    axis = 1 if side == "input" else 0
    return {module: (value.double() * gradient[module].double()).abs().sum(dim=axis) for module, value in after.items()}


def top_slots(scores: Tensors, count: int) -> dict[str, Tensor]:
    """The `count` best slots over all modules together, as boolean masks (r,) by module.

    One choice for the whole model: a module may get none of its slots or all. Equal scores go to the
    earlier module, then the earlier slot.
    """
    return _masks(scores, _falling(scores)[:count])


def affordable_slots(scores: Tensors, costs: Mapping[str, int], budget: int) -> dict[str, Tensor]:
    """Slots in falling order of their scores until a budget is used; one that does not fit is skipped.

    Args:
        scores: of every slot, (r,) by module.
        costs: of one slot of each module.
        budget: what all chosen slots may cost together.

    Returns:
        Boolean masks (r,) by module.
    """
    price = torch.cat([torch.full(score.shape, costs[module]) for module, score in scores.items()]).tolist()
    cheapest, chosen = min(price), []
    for index in _falling(scores).tolist():
        if price[index] <= budget:
            chosen.append(index)
            budget -= price[index]
        if budget < cheapest:
            break
    return _masks(scores, torch.tensor(chosen, dtype=torch.long))


def _falling(scores: Tensors) -> Tensor:
    """Slots of all modules, numbered through, in falling order of their scores."""
    flat = torch.cat([score.double() for score in scores.values()])
    return torch.sort(flat, descending=True, stable=True).indices


def _masks(scores: Tensors, chosen: Tensor) -> dict[str, Tensor]:
    sizes = [score.numel() for score in scores.values()]
    flat = torch.zeros(sum(sizes), dtype=torch.bool)
    flat[chosen] = True
    return dict(zip(scores, torch.split(flat, sizes), strict=True))


def index_type(slots: int) -> torch.dtype:
    """The smallest integer type that can name every one of `slots` slots."""
    return torch.uint8 if slots <= 256 else torch.int16 if slots <= 32768 else torch.int32
