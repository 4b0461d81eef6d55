# SPDX-License-Identifier: Apache-2.0
"""Too long examples: what is cut away, and what is then left to learn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy
from numpy.typing import NDArray

Truncate = Literal["prompt_start", "end"]
"""The side on which a too long example is cut."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of an example, all of which is learned or none."""

    text: str
    """Without the token that ends an answer."""
    ids: tuple[int, ...]
    supervised: bool


@dataclass(frozen=True, slots=True, eq=False)
class Rendered:
    """An example as token ids."""

    ids: NDArray[numpy.int32]
    supervised: NDArray[numpy.bool_]
    """Which tokens are learned. The first of all never is: nothing precedes it."""
    answer: int
    """Where the last answer begins in `ids`; before it are the ids that a generation is given."""
    bytes: int
    """UTF-8 bytes of the supervised text, end tokens left out."""
    length: int
    """Tokens before it was cut."""
    whole_answer: bool
    """Whether the end of the last answer is still there."""


def cut(segments: Sequence[Segment], max_length: int, truncate: Truncate, tokenizer: Any) -> Rendered:
    """An example's segments end to end, at most `max_length` tokens of them.

    Args:
        segments: the last is the last answer, or a plain text.
        max_length: tokens that may be kept.
        truncate: `prompt_start`: the beginning of what precedes the last answer goes (but for a bos), and only where
            nothing is left of it the answer's end; `end`: the end goes.
        tokenizer: which decodes what is left of a text that was cut.
    """
    ids = numpy.array([token for segment in segments for token in segment.ids], dtype=numpy.int32)
    lengths = [len(segment.ids) for segment in segments]
    owner = numpy.repeat(numpy.arange(len(segments)), lengths)
    supervised = numpy.array([segment.supervised for segment in segments], dtype=numpy.bool_)[owner]
    answer, bos = len(ids) - lengths[-1], int(len(ids) > 0 and ids[0] == tokenizer.bos_token_id)
    kept, excess = numpy.arange(len(ids)), len(ids) - max_length
    if excess > 0 and truncate == "prompt_start":
        kept = numpy.delete(kept, slice(bos, bos + max(0, min(excess, answer - bos))))
    kept = kept[:max_length]
    supervised = supervised[kept] & (numpy.arange(len(kept)) > 0)
    learned = kept[supervised]
    return Rendered(
        ids=ids[kept],
        supervised=supervised,
        answer=int(numpy.searchsorted(kept, answer)),
        bytes=sum(_bytes(segment, ids[learned[owner[learned] == n]], tokenizer) for n, segment in enumerate(segments)),
        length=len(ids),
        whole_answer=bool(kept[-1] == len(ids) - 1),
    )


def _bytes(segment: Segment, learned: NDArray[numpy.int32], tokenizer: Any) -> int:
    """UTF-8 bytes of a segment as it is written; where a part was cut away, of what is left of it, decoded."""
    if not len(learned):
        return 0
    if len(learned) == len(segment.ids):
        return len(segment.text.encode())
    left = tokenizer.decode(learned.tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return len(left.encode())
