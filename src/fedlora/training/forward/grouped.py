# SPDX-License-Identifier: Apache-2.0
"""The factors of many clients in one pass by grouped products: each token meets its own client's slots and no others.

The other way, `together` in `packed.py`, multiplies every token with the slots of all clients and sets to zero what is
not its own. That is less to launch and, for few slots, nothing to speak of; it grows with the number of clients.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from fedlora.core.lowrank import LowRank
from fedlora.training.forward.current_pass import Addition, ClientOrder

Parts = Mapping[str, Sequence[LowRank | Tensor]]
"""By map, what one client's adapter and merged update add."""
MASKED_SHARE = 1 / 6
"""So much of the base's own arithmetic may the slots of all clients cost before tokens are grouped by client: 4 clients
of rank 8 on maps of 384 by 384 are at the limit."""
_SLOTS = 8
"""Ranks are padded to a multiple of this: kernels for half-width numbers want rows of a multiple of 16 bytes."""


def masked_share(clients: Sequence[Parts], shapes: Mapping[str, tuple[int, ...]]) -> float:
    """What the slots of all clients side by side cost, as a share of the base's own products with the same tokens."""
    factors, base = 0, 0
    for module, (d_out, d_in) in shapes.items():
        slots = sum(part.rank for parts in clients for part in parts[module] if isinstance(part, LowRank))
        factors, base = factors + slots * (d_out + d_in), base + d_out * d_in
    return factors / base


def only_pairs(clients: Sequence[Parts]) -> bool:
    """Whether all that clients add are pairs of factors, and no dense updates."""
    return all(isinstance(part, LowRank) for parts in clients for some in parts.values() for part in some)


def grouped_additions(
    clients: Sequence[Parts], shapes: Mapping[str, tuple[int, ...]], scale: float, order: ClientOrder
) -> dict[str, Addition]:
    """By map, what the clients' pairs add, each to its own tokens.

    Args:
        clients: of each client in the order of the pack, its pairs.
        shapes: of each map, (d_out, d_in).
        scale: s.
        order: of the pack's tokens.
    """
    groups = len(order.token_ends)  # one more than there are clients where the pack is padded
    return {
        module: _grouped([_joined(parts[module]) for parts in clients], shape, groups, scale, order)
        for module, shape in shapes.items()
    }


def _joined(parts: Sequence[LowRank | Tensor]) -> LowRank:
    """All of a client's pairs for a map as one: their slots side by side."""
    pairs = [part for part in parts if isinstance(part, LowRank)]
    if len(pairs) == 1:
        return pairs[0]
    return LowRank(torch.cat([pair.A for pair in pairs]), torch.cat([pair.B for pair in pairs], dim=1))


def _grouped(
    pairs: Sequence[LowRank], shape: tuple[int, ...], groups: int, scale: float, order: ClientOrder
) -> Addition:
    rank = -(-max(pair.rank for pair in pairs) // _SLOTS) * _SLOTS
    nobodys = [pairs[0].A.new_zeros(rank, shape[1])] * (groups - len(pairs))
    A = torch.stack([*(_wider(pair.A, rows=rank) for pair in pairs), *nobodys])
    none = [pairs[0].B.new_zeros(shape[0], rank)] * (groups - len(pairs))
    B = torch.stack([*(_wider(pair.B, columns=rank) for pair in pairs), *none])

    def added(x: Tensor) -> Tensor:
        ends, dtype = _ends(order, x.shape[-2]), meeting_dtype(x, A)
        met = _product(x.to(dtype).flatten(0, -2), A.to(dtype).transpose(1, 2), ends)
        return _product(scale * met, B.to(dtype).transpose(1, 2), ends).view(*x.shape[:-1], shape[0])

    return added


def meeting_dtype(x: Tensor, factors: Tensor) -> torch.dtype:
    """The type in which tokens meet factors: that of the factors, but on a GPU a half-width base's.

    Its matrix units are an order of magnitude quicker there, and what is added is rounded to the base's type anyway;
    the factors themselves, their gradients and moments stay as they are.
    """
    half = x.dtype in (torch.bfloat16, torch.float16)
    return x.dtype if x.is_cuda and half else factors.dtype


def _ends(order: ClientOrder, rows: int) -> Tensor:
    """Where each client's rows end, in what has a row for each token or one for each sequence."""
    if rows == len(order.from_length):
        return order.token_ends
    if rows == len(order.sequence_starts) - 1:
        return order.sequence_ends
    raise RuntimeError(f"a map was given {rows} rows, which are neither the tokens nor the sequences of the pack")


def _wider(factor: Tensor, *, rows: int = 0, columns: int = 0) -> Tensor:
    """A factor with zero slots appended."""
    more_rows, more_columns = max(rows - factor.shape[0], 0), max(columns - factor.shape[1], 0)
    if not more_rows and not more_columns:
        return factor
    return functional.pad(factor, (0, more_columns, 0, more_rows))


def _product(x: Tensor, factors: Tensor, ends: Tensor) -> Tensor:
    """(rows, d) with one matrix for each group of rows, (groups, d, e): (rows, e)."""
    fits = all(size % _SLOTS == 0 for size in factors.shape[1:])
    if fits and _works(x.device.type, x.dtype):
        made = cast("Callable[..., Tensor]", _grouped_mm())
        return made(x, factors, offs=ends)
    counts = torch.diff(ends, prepend=ends.new_zeros(1)).tolist()
    return torch.cat([part @ factor for part, factor in zip(torch.split(x, counts), factors.unbind(), strict=True)])


def _grouped_mm() -> Callable[..., Tensor] | None:
    """torch's grouped product, under the name that this version has for it; None: it has none."""
    return getattr(functional, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)


@cache
def _works(device: str, dtype: torch.dtype) -> bool:
    """Whether torch's grouped product takes such numbers on this kind of device, forward and back: it is tried."""
    made = _grouped_mm()
    if made is None:
        return False
    with torch.inference_mode(mode=False), torch.enable_grad():
        x = torch.ones(24, 16, device=device, dtype=dtype, requires_grad=True)
        factors = torch.ones(2, 8, 16, device=device, dtype=dtype, requires_grad=True)
        ends = torch.tensor([7, 24], device=device, dtype=torch.int32)
        try:
            product = made(x, factors.transpose(1, 2), offs=ends)
            slopes = torch.autograd.grad(product, [x, factors], torch.ones_like(product))
        except (RuntimeError, NotImplementedError, ValueError, TypeError):
            return False
    sums = [float(tensor.detach().double().sum()) for tensor in (product, *slopes)]
    return sums == [24 * 16 * 8.0] * 3
