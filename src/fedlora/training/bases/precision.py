# SPDX-License-Identifier: Apache-2.0
"""What of a base in bfloat16 or float16 computes in float32 all the same: its head, and on a CPU its norms."""

from typing import Any

import torch
from torch import Tensor, nn

from fedlora.training.bases.maps import encoder_of, repeated_layers

_HALF = (torch.bfloat16, torch.float16)


def raise_head(model: nn.Module) -> None:
    """Have all that stands behind the layers (norm, pooler, head) compute in float32.

    So scores, and the ranking of labels that lie close together, do not end in steps of 1/256. A language model's
    product with the vocabulary stays as it is: it is large, and may be the very weights of the embedding.

    Args:
        model: one in float32 or float64 stays as it is.
    """
    layers, _ = repeated_layers(encoder_of(model))
    inside, behind = set(layers.modules()) | _vocabulary(model), False
    for module in model.modules():
        behind = behind or module is layers
        weights = list(module.parameters(recurse=False))
        if behind and module not in inside and any(weight.dtype in _HALF for weight in weights):
            module.float()
            module.register_forward_pre_hook(_in_its_type)


def _vocabulary(model: Any) -> set[nn.Module]:
    """What makes logits of tokens; none in a classifier."""
    found = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return {found} if isinstance(found, nn.Module) else set()


def _in_its_type(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Inputs in the type of the module's weights, which a caller may have put in the place of the resident ones."""
    dtype = next(module.parameters(recurse=False)).dtype
    return tuple(x.to(dtype) if x.is_floating_point() else x for x in inputs)


def raise_norms(model: nn.Module) -> None:
    """Keep the weights of layer norms in float32, for a CPU.

    There torch then keeps means and deviations in float32 as well; with weights in bfloat16 it computes in float32,
    but hands the backward pass both rounded. A GPU always keeps them, and takes no norm of two types.

    Args:
        model: on the CPU; what it computes in stays as it is.
    """
    for module in model.modules():
        if isinstance(module, nn.LayerNorm) and any(weight.dtype in _HALF for weight in module.parameters()):
            module.float()
