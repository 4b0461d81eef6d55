# SPDX-License-Identifier: Apache-2.0
"""Examples of either task as token ids, and which of the examples these are."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy
from numpy.typing import NDArray

from fedlora.training.data.dialogues import Dialogues
from fedlora.training.data.examples import Texts
from fedlora.training.encoding.render import Renderer
from fedlora.training.encoding.rendered_tokens import render_tokens, render_tokens_once
from fedlora.training.encoding.tokens import Tokens, tokenise, tokenise_once


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """Examples as token ids."""

    tokens: Tokens
    kept: NDArray[numpy.int64]
    """Which of the examples these are, in order; the others have nothing to learn."""
    told: Sequence[str] = ()
    """A sentence each for what was cut and what was left out."""

    def __repr__(self) -> str:
        return f"Encoded({len(self.kept):,} examples)"


def encode_labelled(texts: Texts, tokenizer: Any, max_length: int, fingerprint: str | None) -> Encoded:
    """The tokens of every text, special tokens included, cut at `max_length`.

    Args:
        texts: of the examples.
        tokenizer: of the base.
        max_length: tokens after which a text is cut.
        fingerprint: the tokenizer's, by which they are kept on disk for the next run; None: in memory alone.
    """
    if fingerprint is None:
        tokens = tokenise(texts, tokenizer, max_length)
    else:
        tokens = tokenise_once(texts, tokenizer, fingerprint, max_length)
    return Encoded(tokens, numpy.arange(len(tokens)))


def encode_dialogues(examples: Dialogues, renderer: Renderer, part: str, fingerprint: str | None) -> Encoded:
    """The tokens of every example of language modelling from which something can be learned.

    Args:
        examples: to render.
        renderer: of the base.
        part: of which they are, such as `training`, for sentences.
        fingerprint: as of `encode_labelled`.

    Raises:
        DataError, ModelError: the examples cannot be rendered, or nothing is learned of any.
    """
    if fingerprint is None:
        made = render_tokens(examples.examples, renderer)
    else:
        made = render_tokens_once(examples.examples, renderer, fingerprint)
    right = tuple(examples.examples[number].answers for number in made.kept)
    return Encoded(replace(made.tokens, right_answers=right, stops=renderer.stops), made.kept, made.told(part))
