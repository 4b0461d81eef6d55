# SPDX-License-Identifier: Apache-2.0
"""Long plain texts as several examples, one behind another, so that nothing of them is lost."""

from dataclasses import replace

import numpy
from numpy.typing import NDArray

from fedlora.errors import ConfigError
from fedlora.training.data.dialogues import Dialogues, PlainText
from fedlora.training.encoding.encoded import Encoded
from fedlora.training.encoding.render import Renderer
from fedlora.training.encoding.rendered_tokens import render_tokens, render_tokens_once
from fedlora.training.encoding.tokens import Tokens

_UNCUT = 2**31


def encode_split_texts(examples: Dialogues, renderer: Renderer, part: str, fingerprint: str | None) -> Encoded:
    """The tokens of plain texts, a long text as several examples of at most the renderer's length.

    A text is rendered whole, so that it has the end-of-text token once, behind its last piece. Each piece begins with
    the last token of the piece before it, which is given and not learned there: so every token of a text is learned
    once, as the next one to what precedes it.

    Args:
        examples: plain texts.
        renderer: of the base.
        part: of which they are, such as `training`, for sentences.
        fingerprint: the tokenizer's, where tokens may be kept on disk for other runs; None: they may not.

    Returns:
        The pieces; `kept` names a text once for each of its pieces.

    Raises:
        ConfigError: there are examples that are no plain texts, or no two tokens fit into the length.
    """
    strange = next((example for example in examples.examples if not isinstance(example, PlainText)), None)
    if strange is not None:
        raise ConfigError(
            f"data.long_texts is 'split', which is for plain texts, but the {part} part has a "
            f"{type(strange).__name__.lower()}, whose answer must stay with what it answers: set data.long_texts = "
            f"'cut', and model.max_length as high as the examples need."
        )
    if renderer.max_length < 2:
        raise ConfigError("model.max_length is 1, in which no token precedes another one: set it to at least 2.")
    uncut = replace(renderer, max_length=_UNCUT)
    if fingerprint is None:
        made = render_tokens(examples.examples, uncut)
    else:
        made = render_tokens_once(examples.examples, uncut, fingerprint)
    long = int((made.lengths > renderer.max_length).sum())
    tokens, texts = split_tokens(made.tokens, renderer.max_length)
    kept, told = made.kept[texts], made.told(part)
    if long:
        told.append(
            f"{long:,} of {len(made.lengths):,} {part} texts are longer than model.max_length ({renderer.max_length} "
            f"tokens; the longest has {int(made.lengths.max()):,}) and were split: {len(tokens):,} examples in all."
        )
    return Encoded(tokens, kept, told)


def split_tokens(tokens: Tokens, length: int) -> tuple[Tokens, NDArray[numpy.int64]]:
    """Examples of at most `length` tokens, each beginning with the last token of the one before it in the same text.

    A text's bytes are shared out over its pieces by their learned tokens.

    Args:
        tokens: of whole texts, with what is learned.
        length: at least 2.

    Returns:
        The pieces, and of each the number of its text.
    """
    lengths, step = tokens.lengths, length - 1
    pieces = 1 + numpy.maximum(0, -(-(lengths - length) // step))
    texts = numpy.repeat(numpy.arange(len(tokens)), pieces)
    first = numpy.concatenate([[0], numpy.cumsum(pieces)[:-1]]).astype(numpy.int64)
    nth = numpy.arange(len(texts)) - numpy.repeat(first, pieces)
    begins = tokens.starts[texts] + nth * step
    stops = numpy.minimum(begins + length, tokens.starts[texts + 1])
    starts = numpy.concatenate([[0], numpy.cumsum(stops - begins)]).astype(numpy.int64)
    places = numpy.arange(int(starts[-1])) + numpy.repeat(begins - starts[:-1], stops - begins)
    supervised = None if tokens.supervised is None else tokens.supervised[places].copy()
    if supervised is not None:
        supervised[starts[:-1]] = False  # nothing precedes it here; where it is no text's first, it was learned before
    answers = tokens.answers
    made = Tokens(
        tokens.ids[places],
        starts,
        tokens.labels[texts],
        supervised=supervised,
        answers=None if answers is None else numpy.where(nth > 0, 1, answers[texts]),
    )
    if tokens.text_bytes is None:
        return made, texts
    return replace(made, text_bytes=_shared_out(tokens.text_bytes, made.supervised_lengths, texts)), texts


def _shared_out(
    totals: NDArray[numpy.int64], learned: NDArray[numpy.int64], texts: NDArray[numpy.int64]
) -> NDArray[numpy.int64]:
    """Whole shares of each text's total in proportion to what is learned of its pieces; they sum to it."""
    shares = numpy.zeros(len(texts), dtype=numpy.int64)
    for text in numpy.unique(texts):
        here = slice(*numpy.searchsorted(texts, [text, text + 1]))
        upto = numpy.cumsum(learned[here])
        if upto[-1]:
            shares[here] = numpy.diff(totals[text] * upto // upto[-1], prepend=0)
    return shares
