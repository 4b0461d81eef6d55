# SPDX-License-Identifier: Apache-2.0
"""Attention within every sequence of a pack, for almost every architecture.

By groups of equal length, each an ordinary dense batch without a mask. The function is registered by name
with transformers, so that this is written once and not per architecture.

On a CPU it computes in float32 whatever the type of the base: fused attention in bfloat16 takes several times as long
there for short sequences, and softmax and its sums are better in float32 anyway.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlora.training.current_pass import current

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
    q, k, v = (_computed(tensor.squeeze(0).transpose(0, 1)) for tensor in (query, key, value))  # (tokens, heads, width)
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    grouped = k.shape[1] != q.shape[1]  # several query heads share a key
    parts, sizes = [], [count * length for _, count, length in groups]
    # By `split`, whose gradient is one concatenation; that of a slice is a tensor of the whole pack for every group.
    cuts = zip(*(torch.split(part, sizes) for part in (q, k, v)), strict=True)
    for (_, count, length), cut in zip(groups, cuts, strict=True):
        q_group, k_group, v_group = (part.view(count, length, *part.shape[1:]).transpose(1, 2) for part in cut)
        mask = None if sliding_window is None or length <= sliding_window else _band(length, sliding_window, q.device)
        if mask is not None and causal:
            mask = mask.tril()
        attended = functional.scaled_dot_product_attention(
            q_group, k_group, v_group, mask, is_causal=causal and mask is None, scale=scaling, enable_gqa=grouped
        )
        parts.append(attended.transpose(1, 2).flatten(0, 1))
    return torch.cat(parts).to(query.dtype)[None], None


def _computed(tensor: Tensor) -> Tensor:
    """The tensor in the type in which attention is computed."""
    half = tensor.dtype in (torch.bfloat16, torch.float16)
    return tensor.float() if half and tensor.device.type == "cpu" else tensor


def _band(length: int, window: int, device: torch.device) -> Tensor:
    """Which tokens see which, where a layer looks only so far to both sides."""
    place = torch.arange(length, device=device)
    return (place[:, None] - place[None]).abs() < window
