# SPDX-License-Identifier: Apache-2.0
"""Any adapter as one LoRA adapter whose maps all have the same rank, as servers such as vLLM take it.

vLLM reads `r` and `lora_alpha` alone: it ignores `rank_pattern` and `alpha_pattern`, refuses `modules_to_save`, and its
`max_lora_rank` is one of a few ranks. Slots of zeros fill up each map to the smallest of these that holds all.
"""

from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from fedlora.core.adapter import Adapter, AdapterSpec, Start, additions
from fedlora.core.lowrank import LowRank, stack
from fedlora.errors import ModelError

RANKS: Final = (8, 16, 32, 64, 128, 256, 512)
"""What vLLM's `max_lora_rank` can be. It also takes 320 and lately 1: with powers of two, alpha / r is the scale to the
last bit."""


def one_rank(start: Start, spec: AdapterSpec) -> tuple[Start, AdapterSpec]:
    """A model as LoRA slots of one rank, and what that adapter is; it computes what the model did.

    Maps that get nothing have no slots. Merged updates of pairs become slots, and so does VeRA's frozen pair.

    Args:
        start: the model; no change of it is dense.
        spec: what its adapter is.

    Raises:
        ModelError: there are more slots than the largest rank, or none at all.
    """
    pairs = {module: _pair(parts) for module, parts in additions(start, spec).items()}
    most = max((pair.rank for pair in pairs.values()), default=0)
    if not most:
        raise ModelError("This adapter adds nothing to its base: there is nothing to export but the base itself.")
    if most > RANKS[-1]:
        raise ModelError(
            f"This adapter has {most} slots in a map, its merged updates included, and vLLM takes at most "
            f"{RANKS[-1]}: export the whole model with --merged."
        )
    rank = next(rank for rank in RANKS if rank >= most)
    inputs = {module: _filled(pair.A, rank, 0) for module, pair in pairs.items() if pair.rank}
    outputs = {module: _filled(pair.B, rank, 1) for module, pair in pairs.items() if pair.rank}
    shapes = {module: spec.shapes[module] for module in inputs}
    return Start(Adapter(inputs, outputs)), replace(
        spec, shapes=shapes, rank=rank, kind="lora", projection=None, start=None
    )


def _pair(parts: list[LowRank | Tensor]) -> LowRank:
    """What a map gets, as one pair without slots that add nothing."""
    pairs = [part for part in parts if isinstance(part, LowRank)]
    if len(pairs) != len(parts):
        raise ModelError("A model with a dense change of its weights cannot be written as a LoRA adapter.")
    both = stack([(1.0, pair) for pair in pairs])
    adds = both.A.any(dim=1) & both.B.any(dim=0)
    return LowRank(both.A[adds], both.B[:, adds])


def _filled(tensor: Tensor, rank: int, dim: int) -> Tensor:
    """With zeros behind it, up to so many slots."""
    missing = [size if axis != dim else rank - tensor.shape[dim] for axis, size in enumerate(tensor.shape)]
    return torch.cat([tensor, tensor.new_zeros(missing)], dim=dim)
