# SPDX-License-Identifier: Apache-2.0
"""Attention within every sequence of a pack, for almost every architecture.

By groups of equal length, each an ordinary dense batch without a mask. The function is registered by name
with transformers, so that this is written once and not per architecture.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlora.training.current_pass import KeysTaken, LastLayer, Reads, current

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
    """Attention within every sequence; all of (1, heads, tokens, width), the result (1, tokens, heads, width).

    In a last layer that is computed for the read tokens alone there is one query a sequence, and keys and values are
    those that the layer's first call has left.
    """
    now = current()
    groups = now.groups
    last_layer = now.last if now.last is not None and now.last.under_way else None
    if groups is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        usual = {"scaling": scaling, "dropout": dropout, "sliding_window": sliding_window, "is_causal": is_causal}
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **usual, **others
        )
        return found
    if last_layer is not None:
        key, value = _taken(last_layer, key, value)
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))  # (tokens, heads, width)
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    grouped = k.shape[1] != q.shape[1]  # several query heads share a key
    parts, asked = [], 0
    for first, count, length in groups:
        last = first + count * length
        k_group, v_group = (part[first:last].view(count, length, *part.shape[1:]).transpose(1, 2) for part in (k, v))
        queries = length if last_layer is None else 1
        q_group = q[asked : asked + count * queries].view(count, queries, *q.shape[1:]).transpose(1, 2)
        asked += count * queries
        mask = None if sliding_window is None or length <= sliding_window else _band(length, sliding_window, q.device)
        if mask is not None and causal:
            mask = mask.tril()
        if last_layer is not None:
            mask = _row(mask, last_layer.side, length, causal, q.device)
        attended = functional.scaled_dot_product_attention(
            q_group,
            k_group,
            v_group,
            mask,
            is_causal=causal and mask is None and last_layer is None,
            scale=scaling,
            enable_gqa=grouped,
        )
        parts.append(attended.transpose(1, 2).flatten(0, 1))
    return torch.cat(parts)[None], None


def _band(length: int, window: int, device: torch.device) -> Tensor:
    """Which tokens see which, where a layer looks only so far to both sides."""
    place = torch.arange(length, device=device)
    return (place[:, None] - place[None]).abs() < window


def _taken(layer: LastLayer, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """The keys and values of all tokens.

    Raises:
        KeysTaken: these are they; with them the layer's first call has done its work.
    """
    if layer.keys is None or layer.values is None:
        layer.keys, layer.values = key, value
        raise KeysTaken
    return layer.keys, layer.values


def _row(mask: Tensor | None, side: Reads, length: int, causal: bool, device: torch.device) -> Tensor | None:
    """What the read token sees, (1, length); None: all tokens of its sequence.

    SDPA's own causal mask would not do: it aligns one query with the first key.
    """
    if side == "first" and causal:
        return torch.arange(length, device=device)[None] == 0
    if mask is None:
        return None
    return mask[:1] if side == "first" else mask[-1:]
