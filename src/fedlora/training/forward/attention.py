# SPDX-License-Identifier: Apache-2.0
"""Attention within every sequence of a pack, for almost every architecture.

By groups of equal length, each an ordinary dense batch without a mask; where tokens lie client by client, by a kernel
for sequences of any length if there is one, else brought into the order by length and back. The function is registered
by name with transformers, so that this is written once and not per architecture.

On a CPU it computes in float32 whatever the type of the base: fused attention in bfloat16 takes several times as long
there for short sequences, and softmax and its sums are better in float32 anyway.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlora.training.forward.current_pass import Group, KeysTaken, LastLayer, Read, current
from fedlora.training.forward.varlen import is_usable, varlen

_NOT_COMPUTED = ("softcap", "s_aux")
"""What some architectures add to attention; where a model asks for it, its sequences are not packed."""
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
    if groups is not None and any(others.get(name) is not None for name in _NOT_COMPUTED):
        raise ValueError("this attention is more than the products and the softmax")
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
    q, k, v = (_computed(tensor.squeeze(0).transpose(0, 1)) for tensor in (query, key, value))  # (tokens, heads, width)
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    order, side = current().order, None if last_layer is None else last_layer.side
    if order is None:
        attended = by_length(q, k, v, groups, causal, sliding_window, scaling, side)
    elif is_usable(q, causal, sliding_window, side):
        attended = varlen(q, k, v, order, causal, sliding_window, scaling, side)
    else:
        there, back = order.to_length, order.from_length
        k, v = k.index_select(0, there), v.index_select(0, there)
        if side is not None:
            there, back = order.sequences_to_length, order.sequences_from_length
        attended = by_length(q.index_select(0, there), k, v, groups, causal, sliding_window, scaling, side)
        attended = attended.index_select(0, back)
    return attended.to(query.dtype)[None], None


def by_length(  # noqa: PLR0917
    q: Tensor,
    k: Tensor,
    v: Tensor,
    groups: Sequence[Group],
    causal: bool,
    window: int | None,
    scale: float | None,
    side: Read | None = None,
) -> Tensor:
    """Attention within every sequence of a pack that is sorted by length: a dense batch for every length.

    Args:
        q: (tokens, heads, width), or, with `side`, (sequences, heads, width).
        k: (tokens, heads, width), perhaps with fewer heads, each of which serves several of q.
        v: likewise.
        groups: the sequences of each length.
        causal: whether a token sees only what stands before it.
        window: how many tokens to a side one sees, itself counted; None: all.
        scale: of the products; None: one over the root of the width.
        side: which token of every sequence alone has a query; None: all have.

    Returns:
        Of the shape of q.
    """
    grouped = k.shape[1] != q.shape[1]  # several query heads share a key
    parts, sizes = [], [count * length for _, count, length in groups]
    asked = sizes if side is None else [count for _, count, _ in groups]
    # By `split`, whose gradient is one concatenation; that of a slice is a tensor of the whole pack for every group.
    cuts = zip(torch.split(q, asked), torch.split(k, sizes), torch.split(v, sizes), strict=True)
    for (_, count, length), cut in zip(groups, cuts, strict=True):
        q_group, k_group, v_group = (part.view(count, -1, *part.shape[1:]).transpose(1, 2) for part in cut)
        mask = None if window is None or length <= window else _band(length, window, q.device)
        if mask is not None and causal:
            mask = mask.tril()
        if side is not None:
            mask = _row(mask, side, length, causal, q.device)
        attended = functional.scaled_dot_product_attention(
            q_group,
            k_group,
            v_group,
            mask,
            is_causal=causal and mask is None and side is None,
            scale=scale,
            enable_gqa=grouped,
        )
        parts.append(attended.transpose(1, 2).flatten(0, 1))
    return torch.cat(parts)


def _computed(tensor: Tensor) -> Tensor:
    """The tensor in the type in which attention is computed."""
    half = tensor.dtype in (torch.bfloat16, torch.float16)
    return tensor.float() if half and tensor.device.type == "cpu" else tensor


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


def _row(mask: Tensor | None, side: Read, length: int, causal: bool, device: torch.device) -> Tensor | None:
    """What the read token sees, (1, length); None: all tokens of its sequence.

    SDPA's own causal mask would not do: it aligns one query with the first key.
    """
    if side == "first" and causal:
        return torch.arange(length, device=device)[None] == 0
    if mask is None:
        return None
    return mask[:1] if side == "first" else mask[-1:]
