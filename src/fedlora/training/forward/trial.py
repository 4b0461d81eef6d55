# SPDX-License-Identifier: Apache-2.0
"""Which models can be run on packs, and in which form their last layer: tried and not looked up."""

from dataclasses import replace
from typing import Any, Final

import numpy
import torch
from torch import Tensor, nn

from fedlora.training.bases.maps import encoder_of
from fedlora.training.bases.model import TaskType
from fedlora.training.bases.quantized import is_quantized
from fedlora.training.batches import before_supervised, padded
from fedlora.training.encoding.tokens import Tokens
from fedlora.training.forward.current_pass import Reads
from fedlora.training.forward.packing import Form, Pack, PackedEncoder, pack

_CLASSIFIERS: Final[tuple[Reads, ...]] = ("first", "last")


def packed_encoder(model: nn.Module, padding: int, task_type: TaskType = "SEQ_CLS") -> PackedEncoder | None:
    """The model on packs; None where packs do not give the logits of padded batches.

    That, which token the head reads, and whether the last layer can be computed for it alone, is tried and not looked
    up: architectures are many.
    """
    parameter = next(model.parameters())
    config: Any = encoder_of(model).config
    usual: Any = getattr(config, "_attn_implementation", None)
    tokens, sides = some_tokens(model), _CLASSIFIERS
    if task_type == "CAUSAL_LM":
        every_other = numpy.arange(len(tokens.ids)) % 2 == 0  # so that others than the last are not read
        tokens, sides = replace(tokens, supervised=every_other), ("predicting",)
    expected = _padded_logits(model, tokens, padding)
    packed = pack(tokens, [numpy.arange(len(tokens))], str(parameter.device))
    for reads in sides:
        found = _logits(model, packed, reads, "whole")
        if found is None:
            break
        if agree(found, expected, _type_of(model)):
            form = "whole" if reads == "predicting" else _cheapest(model, packed, reads, found)
            encoder = PackedEncoder(model, reads, form).without_idle_maps(packed)
            less = _of(encoder, packed)
            if less is None or not agree(less, expected, _type_of(model)):
                encoder.idle = frozenset()
            return encoder
    config._attn_implementation = usual
    return None


def _cheapest(model: nn.Module, packed: Pack, reads: Reads, expected: Tensor) -> Form:
    """The cheapest form of the last layer that gives the scores that the whole one gives."""
    forms: tuple[Form, ...] = ("read", "placed")
    for form in forms:
        found = _logits(model, packed, reads, form)
        if found is not None and agree(found, expected, _type_of(model)):
            return form
    return "whole"


def _logits(model: nn.Module, packed: Pack, reads: Reads, last_layer: Form) -> Tensor | None:
    """The logits of a pack; None where the model cannot make them so."""
    try:
        return _of(PackedEncoder(model, reads, last_layer), packed)
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError, KeyError):
        return None


def _of(encoder: PackedEncoder, packed: Pack) -> Tensor | None:
    """The logits that an encoder gives of a pack; None where it cannot."""
    try:
        with torch.inference_mode():
            return encoder.logits(encoder.hidden(packed, {}).index_select(0, encoder.read_by(packed)[0]), {})
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError, KeyError):
        return None


def _type_of(model: nn.Module) -> torch.dtype:
    """The type whose rounding two ways may differ by: maps in 8 bits round what they are given, too."""
    return torch.bfloat16 if is_quantized(model) else narrowest(model)


def narrowest(model: nn.Module) -> torch.dtype:
    """The type with the fewest bits among those of a model's weights, whose head may be wider than its layers."""
    types = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    return min(types, key=lambda dtype: torch.finfo(dtype).bits)


def agree(found: Tensor, expected: Tensor, computed: torch.dtype) -> bool:
    """Whether two ways give the same numbers, as far as the type in which they were computed can tell."""
    tolerance = 1e-4 if computed in (torch.float32, torch.float64) else 5e-2
    return bool((expected - found).abs().max() <= tolerance * (1.0 + expected.abs().max()))


def some_tokens(model: nn.Module) -> Tokens:
    """Four sequences to try a model on, two of one length."""
    vocabulary = int(getattr(model.config, "vocab_size", 8))
    lengths = (3, 4, 4, 7)
    draw = torch.Generator().manual_seed(0)
    top = min(vocabulary, 1000)
    ids = torch.randint(5 if top > 10 else 1, top, (sum(lengths),), generator=draw)
    starts = numpy.concatenate([[0], numpy.cumsum(lengths)])
    return Tokens(ids.numpy().astype(numpy.int32), starts, numpy.zeros(len(lengths), dtype=numpy.int64))


def _padded_logits(model: Any, tokens: Tokens, padding: int) -> Tensor:
    """The logits as the model gives them on a padded batch, of a language model those before supervised tokens."""
    device = str(next(iter(model.parameters())).device)
    ids, mask = padded(tokens, numpy.arange(len(tokens)), padding, device)
    with torch.inference_mode():
        logits: Tensor = model(input_ids=ids, attention_mask=mask).logits
    return logits if tokens.supervised is None else before_supervised(logits, tokens, numpy.arange(len(tokens)))
