# SPDX-License-Identifier: Apache-2.0
"""Robust centres of what clients sent, slot by slot and coordinate by coordinate: trimmed mean and median.

In place of the weighted mean (Yin et al., arXiv 1803.01498). Clients count alike, whatever their number
of examples: a weight is a claim too. Unlike sums, centres need what all clients sent at once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fedlora.core.adapter import SIDES, Adapter, Tensors
from fedlora.core.kinds import Kind, Side
from fedlora.core.slots import Part, along, keep_where, slot_sums

Centre = Literal["mean", "trimmed", "median"]


@dataclass(frozen=True, slots=True, eq=False)
class SlotCentres:
    """Read like `SlotSums`: over all clients, or over those that sent the slot."""

    kind: Kind
    values: Mapping[Side, Tensors]
    """What every client sent, (clients, *shape) by module, zeros where it sent nothing."""
    sent: Mapping[Side, Tensors]
    """Per client and slot (clients, r) whether it did; (clients,) of a side without slots."""
    trim: float | None
    """The share that is cut off at each end; None: all but the middle (the median)."""

    def mean(self, side: Side) -> dict[str, Tensor]:
        """The centre over all clients, a slot that a client did not send counting as zero."""
        return {module: centre_of(stacked, self.trim) for module, stacked in self.values[side].items()}

    def owners_mean(self, side: Side) -> dict[str, Tensor]:
        """The centre over the clients that sent the slot; zero where nobody did."""
        result = {}
        for module, stacked in self.values[side].items():
            sent = self.sent[side][module]
            centre = torch.zeros_like(stacked[0])
            for who in torch.unique(sent.T if sent.ndim == 2 else sent[None], dim=0):
                if bool(who.any()):
                    same = (sent == (who[:, None] if sent.ndim == 2 else who)).all(dim=0)
                    mask = along(self.kind, side, same)
                    centre = torch.where(mask, centre_of(stacked[who], self.trim), centre)
            result[module] = centre
        return result

    def keep_unowned(self, side: Side, new: Tensors, old: Tensors) -> dict[str, Tensor]:
        """`new` where somebody sent the slot, `old` where nobody did; in the type of `old`."""
        owned = {module: sent.any(dim=0).double() for module, sent in self.sent[side].items()}
        return keep_where(self.kind, side, owned, new, old)


def centre_of(stacked: Tensor, trim: float | None) -> Tensor:
    """The mean of what is left between the cuts, coordinate by coordinate.

    Args:
        stacked: what every client sent, (clients, *shape).
        trim: the share that is cut off at each end; None: all but the middle.
    """
    ascending, count = stacked.sort(dim=0).values, stacked.shape[0]
    cut = (count - 1) // 2 if trim is None else min(int(trim * count), (count - 1) // 2)
    return ascending[cut : count - cut].mean(dim=0)


def slot_centres(like: Adapter, parts: Iterable[Part], trim: float | None) -> SlotCentres:
    """Lay what clients sent side by side.

    Args:
        like: an adapter with every module and the full number of slots.
        parts: what each client sent, in client order.
        trim: see `SlotCentres`.

    Raises:
        PayloadError: a part names a module, a shape or a slot that `like` does not have.
    """
    alone = [slot_sums(like, [(1.0, part)]) for part in parts]
    values: dict[Side, dict[str, Tensor]] = {}
    sent: dict[Side, dict[str, Tensor]] = {}
    for side in SIDES:
        modules = like.side(side)
        values[side] = {module: torch.stack([sums.totals[side][module] for sums in alone]) for module in modules}
        sent[side] = {module: torch.stack([sums.owned[side][module] > 0 for sums in alone]) for module in modules}
    return SlotCentres(like.kind, values, sent, trim)
