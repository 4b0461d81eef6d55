# SPDX-License-Identifier: Apache-2.0
"""The heads of many clients at once: one call for all of them, where a call for each would cost more than its sums."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from fedlora.training.bases.model import Base
from fedlora.training.forward.packing import PackedEncoder

Values = Mapping[str, Tensor]
"""A head's parameters, by name."""


def logits_together(encoder: PackedEncoder, hidden: Sequence[Tensor], values: Sequence[Values]) -> list[Tensor]:
    """Class scores from every client's hidden states through its head: those of one call each, but for rounding.

    Args:
        encoder: of the base that all share.
        hidden: of each client, (sequences, width).
        values: of each client, the parameters of its head.
    """
    counts = [len(some) for some in hidden]
    padded = torch.stack([functional.pad(some, (0, 0, 0, max(counts) - len(some))) for some in hidden])
    stacked = {name: torch.stack([theirs[name] for theirs in values]) for name in values[0]}
    scores: Tensor = torch.func.vmap(encoder.logits)(padded, stacked)
    return [theirs[:count] for theirs, count in zip(scores, counts, strict=True)]


def can_be_together(encoder: PackedEncoder, base: Base) -> bool:
    """Whether this architecture's head gives for two clients at once what it gives for each; that is tried."""
    if not base.head:
        return False
    parameter = next(base.model.parameters())
    width = int(getattr(base.model.config, "hidden_size", 0))
    draw = torch.Generator().manual_seed(0)
    hidden = [torch.randn(count, width, generator=draw).to(parameter) for count in (3, 2)]
    values = [
        {name: (factor * part).to(parameter.device) for name, part in base.head.items()} for factor in (1.0, -1.5)
    ]
    try:
        with torch.no_grad():
            alone = [encoder.logits(some, head) for some, head in zip(hidden, values, strict=True)]
            together = logits_together(encoder, hidden, values)
    except (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError, IndexError):
        return False
    tolerance = 1e-4 if parameter.dtype in (torch.float32, torch.float64) else 5e-2
    return all(torch.allclose(a, b, rtol=tolerance, atol=tolerance) for a, b in zip(alone, together, strict=True))
