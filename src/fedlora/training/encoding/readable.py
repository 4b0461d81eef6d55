# SPDX-License-Identifier: Apache-2.0
"""Whether a base can read texts: its tokenizer knows their words, its embedding has their tokens, they are not too
long for its positions. What is amiss here would train on nothing, or end in an index error in mid-run."""

from typing import Any

import numpy
from torch import nn

from fedlora.errors import ModelError
from fedlora.training.bases.maps import encoder_of
from fedlora.training.encoding.tokens import Tokens

_POSITIONS = ("position_embeddings", "position_embedding", "embed_positions", "wpe")
"""What learned tables of positions are called in bases of all families."""
_UNKNOWN = 0.5
"""The share of unknown tokens above which texts say nothing."""


def vocabulary(model: nn.Module) -> int | None:
    """How many tokens a base has vectors for; None where it has no such table."""
    table = getattr(encoder_of(model), "get_input_embeddings", lambda: None)()
    return table.weight.shape[0] if isinstance(table, nn.Embedding) else None


def positions(model: nn.Module) -> int | None:
    """How many tokens a text may have; None where a base has no table of positions."""
    for name, module in encoder_of(model).named_modules():
        if name.rpartition(".")[2] in _POSITIONS and isinstance(module, nn.Embedding):
            first = 0 if module.padding_idx is None else module.padding_idx + 1  # as RoBERTa counts
            return module.num_embeddings - int(getattr(module, "offset", first))
    return None


def longest(model: nn.Module, max_length: int) -> int:
    """After how many tokens a text is cut that must be read in any case."""
    return min(max_length, positions(model) or max_length)


def require_tokenizer(name: str, model: nn.Module, tokenizer: Any) -> None:
    """Refuse a tokenizer that lacks most of what a base was trained on: its files are missing.

    Raises:
        ModelError: with what is missing.
    """
    known, vectors = len(tokenizer), vocabulary(model)
    if vectors is not None and known < vectors / 2:
        raise ModelError(
            f"model.base is {name!r}, whose tokenizer knows {known} tokens where its weights have {vectors}: the "
            f"folder lacks the tokenizer's files (tokenizer.json, vocab.txt or the like). Put them there."
        )


def require_length(tokenizer: Any, max_length: int) -> None:
    """Refuse to cut texts to nothing.

    Raises:
        ModelError: with the least that is possible.
    """
    special = tokenizer.num_special_tokens_to_add()
    if max_length <= special:
        raise ModelError(
            f"model.max_length is {max_length}, but {special} tokens of every text are special ones: set it to at "
            f"least {special + 1}."
        )


def require_readable(name: str, model: nn.Module, tokenizer: Any, tokens: Tokens) -> None:
    """Refuse texts that a base cannot read.

    Args:
        name: of the base.
        model: the base.
        tokenizer: of the base.
        tokens: of the texts.

    Raises:
        ModelError: with what does not fit, and what to do.
    """
    if not len(tokens):
        return
    room, length = positions(model), int(tokens.lengths.max())
    if room is not None and length > room:
        raise ModelError(
            f"The longest text has {length} tokens, but model.base {name!r} reads at most {room}: set model.max_length "
            f"to {room}, which cuts longer texts, or choose another base."
        )
    vectors, largest = vocabulary(model), int(tokens.ids.max())
    if vectors is not None and largest >= vectors:
        raise ModelError(
            f"The tokenizer of model.base {name!r} gives token {largest}, but its weights have {vectors} tokens: the "
            f"tokenizer is another model's. Put the right tokenizer's files into the folder."
        )
    share = _unknown(tokens, tokenizer)
    if share > _UNKNOWN:
        raise ModelError(
            f"The tokenizer of model.base {name!r} does not know {100 * share:.0f} % of the words of the texts, so "
            f"that nothing could be learned from them: choose a base for this language. The generated base knows only "
            f"the words of the generated data (data.source = 'generated')."
        )


def _unknown(tokens: Tokens, tokenizer: Any) -> float:
    """The share of unknown tokens among those that are not special; 0 where an unknown word has no token of its own."""
    unknown = tokenizer.unk_token_id
    special = {number for number in tokenizer.all_special_ids if number != unknown}
    others = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    if unknown is None or unknown in others:
        return 0.0
    words = int(numpy.isin(tokens.ids, list(special), invert=True).sum())
    return int((tokens.ids == unknown).sum()) / words if words else 0.0
