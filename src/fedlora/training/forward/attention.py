# SPDX-License-Identifier: Apache-2.0
"""Attention within every sequence of a pack, for almost every architecture.

By groups of equal length, each an ordinary dense batch without a mask; where tokens lie client by client, by a kernel
for sequences of any length if there is one, else brought into the order by length and back. The function is registered
by name with transformers, so that this is written once and not per architecture.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlora.training.current_pass import Group, current
from fedlora.training.forward.varlen import is_usable, varlen

ATTENTION = "fedlora_packed"
"""The name under which transformers finds the attention function."""


def register() -> None:
    """Make `ATTENTION` known to transformers."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(ATTENTION, _attention)
    AttentionMaskInterface.register(ATTENTION, _mask)


def _mask(*args: Any, **named: Any) -> Any:
    """Groups of equal length need none."""
    from transformers.masking_utils import sdpa_mask

    return sdpa_mask(*args, **named) if current().groups is None else None


def _attention(  # noqa: PLR0917 (the signature is that of transformers)
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention within every sequence; all of (1, heads, tokens, width), the result (1, tokens, heads, width)."""
    groups = current().groups
    if groups is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        usual = {"scaling": scaling, "dropout": dropout, "sliding_window": sliding_window, "is_causal": is_causal}
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **usual, **others
        )
        return found
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))  # (tokens, heads, width)
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    order = current().order
    if order is None:
        return by_length(q, k, v, groups, causal, sliding_window, scaling)[None], None
    if is_usable(q):
        return varlen(q, k, v, order, causal, sliding_window, scaling)[None], None
    q, k, v = (tensor.index_select(0, order.to_length) for tensor in (q, k, v))
    attended = by_length(q, k, v, groups, causal, sliding_window, scaling)
    return attended.index_select(0, order.from_length)[None], None


def by_length(  # noqa: PLR0917
    q: Tensor, k: Tensor, v: Tensor, groups: Sequence[Group], causal: bool, window: int | None, scale: float | None
) -> Tensor:
    """Attention within every sequence of a pack that is sorted by length: a dense batch for every length.

    Args:
        q: (tokens, heads, width).
        k: likewise, perhaps with fewer heads, each of which serves several of q.
        v: likewise.
        groups: the sequences of each length.
        causal: whether a token sees only what stands before it.
        window: how many tokens to a side one sees, itself counted; None: all.
        scale: of the products; None: one over the root of the width.

    Returns:
        (tokens, heads, width).
    """
    grouped = k.shape[1] != q.shape[1]  # several query heads share a key
    parts = []
    for first, count, length in groups:
        last = first + count * length
        q_group, k_group, v_group = (
            part[first:last].view(count, length, *part.shape[1:]).transpose(1, 2) for part in (q, k, v)
        )
        mask = None if window is None or length <= window else _band(length, window, q.device)
        if mask is not None and causal:
            mask = mask.tril()
        attended = functional.scaled_dot_product_attention(
            q_group, k_group, v_group, mask, is_causal=causal and mask is None, scale=scale, enable_gqa=grouped
        )
        parts.append(attended.transpose(1, 2).flatten(0, 1))
    return torch.cat(parts)


def _band(length: int, window: int, device: torch.device) -> Tensor:
    """Which tokens see which, where a layer looks only so far to both sides."""
    place = torch.arange(length, device=device)
    return (place[:, None] - place[None]).abs() < window
