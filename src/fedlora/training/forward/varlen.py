# SPDX-License-Identifier: Apache-2.0
"""Attention by one kernel for sequences of any length, which some GPUs have: one call a layer."""

import inspect
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor

from fedlora.training.forward.current_pass import ClientOrder, Read

_WIDEST = 256
"""The widest head that the kernel takes."""


def is_usable(q: Tensor, causal: bool, window: int | None, side: Read | None = None) -> bool:
    """Whether the kernel takes such queries, half-width numbers on a CUDA device, and gives such attention."""
    half = q.dtype in (torch.bfloat16, torch.float16)
    fits = q.shape[-1] % 8 == 0 and q.shape[-1] <= _WIDEST
    return q.is_cuda and half and fits and "window_size" in _parameters() and gives(causal, window, side)


def gives(causal: bool, window: int | None, side: Read | None = None) -> bool:
    """Whether the kernel gives such attention: a single query of a sequence it takes for that of the last token."""
    return side != "first" or (window is None and not causal)


def varlen(  # noqa: PLR0917
    q: Tensor,
    k: Tensor,
    v: Tensor,
    order: ClientOrder,
    causal: bool,
    window: int | None,
    scale: float | None,
    side: Read | None = None,
) -> Tensor:
    """Attention within every sequence of a pack in any order; the arguments are those of `attention.by_length`."""
    from torch.nn.attention.varlen import varlen_attn

    reach = -1 if window is None else window - 1  # a window counts the token itself
    options: dict[str, Any] = {"scale": scale, "window_size": (reach, 0 if causal else reach)}
    if k.shape[1] != q.shape[1]:
        if "enable_gqa" in _parameters():
            options["enable_gqa"] = True
        else:
            k, v = (tensor.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for tensor in (k, v))
    starts, longest = order.sequence_starts, order.longest
    asked, most = (
        (starts, longest) if side is None else (torch.arange(len(starts), dtype=torch.int32, device=q.device), 1)
    )
    return cast("Tensor", varlen_attn(q, k, v, asked, starts, most, longest, **options))


@cache
def _parameters() -> frozenset[str]:
    """What torch's function takes, which differs between its versions; nothing where there is none."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return frozenset()
    return frozenset(inspect.signature(varlen_attn).parameters)
