# SPDX-License-Identifier: Apache-2.0
"""Penalties that a client's training adds to its loss: frozen values, never functions, so that a trainer
may compute those of many clients at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlora.core.adapter import SIDES, Adapter, Sides


@dataclass(frozen=True, slots=True)
class Proximal:
    """mu / 2 times the squared distance from the start (FedProx, arXiv 1812.06127, eq. 2)."""

    mu: float
    sides: Sides
    """The sides that it acts on."""


@dataclass(frozen=True, slots=True)
class Tail:
    """strength ||A[first:]|| ||B[:, first:]||, summed over the modules (HetLoRA, arXiv 2401.06432, eq. 3).

    Norms are Frobenius norms, whose gradient at zero is taken as zero: at the start B is zero.
    """

    strength: float
    first: int
    """The first slot of the tail."""


Penalty = Proximal | Tail


def penalty(penalties: Sequence[Penalty], now: Adapter, start: Adapter) -> Tensor:
    """The sum of all penalties, a scalar with its gradient; zero without any.

    Args:
        penalties: what acts.
        now: the adapter as it is trained.
        start: where its training began.
    """
    total = torch.zeros(())
    for entry in penalties:
        for term in _distances(entry, now, start) if isinstance(entry, Proximal) else _tails(entry, now):
            total = total + term
    return total


def _distances(proximal: Proximal, now: Adapter, start: Adapter) -> list[Tensor]:
    return [
        0.5 * proximal.mu * (tensor - start.side(side)[module].to(tensor)).square().sum()
        for side in SIDES
        if side in proximal.sides
        for module, tensor in now.side(side).items()
    ]


def _tails(tail: Tail, now: Adapter) -> list[Tensor]:
    return [tail.strength * product for product in tail_products(now, tail.first).values()]


def tail_products(adapter: Adapter, first: int) -> dict[str, Tensor]:
    """||A[first:]|| ||B[:, first:]|| of every module, a scalar each."""
    norm = torch.linalg.vector_norm  # its gradient at zero is zero
    return {m: norm(A[first:]) * norm(adapter.output[m][:, first:]) for m, A in adapter.input.items()}
