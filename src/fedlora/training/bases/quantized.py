# SPDX-License-Identifier: Apache-2.0
"""Bases whose frozen weights are kept in 4 or 8 bits, by bitsandbytes. The only file that knows it.

Adapters and merged updates stay terms of their own beside such weights, in float32: nothing is ever quantised again.
"""

import copy
from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch
from torch import nn

from fedlora.errors import ModelError
from fedlora.training.bases.maps import find_maps

Quantization = Literal["none", "8bit", "4bit"]


def quantizer(quantization: Quantization, config: Any, kind: Any, dtype: torch.dtype) -> dict[str, Any]:
    """What transformers is told of how weights are kept; nothing where they stay as they are.

    The linear maps of the layers are quantised, whatever stands above them (heads, the product with the vocabulary) is
    not: heads train, and their scores lie close together.

    Args:
        quantization: 4bit: NormalFloat with its constants quantised too (QLoRA, arXiv 2305.14314); 8bit: LLM.int8.
        config: of the model, of transformers.
        kind: the class that makes the model from it.
        dtype: in which products are computed.

    Raises:
        ModelError: bitsandbytes is not installed.
    """
    if quantization == "none":
        return {}
    if find_spec("bitsandbytes") is None:
        raise ModelError(
            f"model.quantization is {quantization!r}, which needs the package bitsandbytes: install it with pip "
            f"install 'fedlora[quantize]', or set model.quantization = 'none'."
        )
    from transformers import BitsAndBytesConfig
    from transformers.pytorch_utils import Conv1D

    with torch.device("meta"):
        model = kind.from_config(config)
    maps = find_maps(model, None, None)
    others = [n for n, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D) and n not in maps]
    if quantization == "8bit":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=others)}
    how = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=others,
    )
    return {"quantization_config": how}


def is_quantized(model: nn.Module) -> bool:
    """Whether weights of a model are kept in fewer bits than they are computed in."""
    return bool(getattr(model, "is_quantized", False))


def bits_of(quantization: Quantization, dtype: torch.dtype) -> int:
    """Bits that a weight takes."""
    bits = dict(zip(get_args(Quantization), (torch.finfo(dtype).bits, 8, 4), strict=True))
    return int(bits[quantization])


def dequantized(model: nn.Module) -> nn.Module:
    """The model with the weights that it computes with as they are; one that is not quantised is itself."""
    if not is_quantized(model):
        return model
    other: Any = copy.deepcopy(model)
    found: nn.Module = other.dequantize()
    return found
