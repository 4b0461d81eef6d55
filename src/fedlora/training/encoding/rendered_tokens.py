# SPDX-License-Identifier: Apache-2.0
"""Rendered examples end to end: made once, then read from the disk, with what was cut and left out told."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from fedlora.errors import DataError
from fedlora.training.cache import made_once
from fedlora.training.data.dialogues import Completion, Conversation, Example, PlainText
from fedlora.training.encoding.cutting import Rendered
from fedlora.training.encoding.render import Renderer, render
from fedlora.training.encoding.tokens import Tokens

_EXAMPLES_A_TIME = 1_000
_VERSION = 1
"""Of the way from examples to ids. Whoever changes the way raises it, so that no run reads what the old way made."""


@dataclass(frozen=True, slots=True, eq=False)
class RenderedTokens:
    """The ids of all examples of which something is learned."""

    tokens: Tokens
    """Of those examples; their labels are all 0."""
    kept: NDArray[numpy.int64]
    """Which of the examples that were given these are."""
    lengths: NDArray[numpy.int64]
    """Of every example that was given, its tokens before it was cut."""
    ended: NDArray[numpy.bool_]
    """Of every example that was given, whether the end of its answer is still there."""
    max_length: int

    def __repr__(self) -> str:
        return f"RenderedTokens({len(self.tokens):,} of {len(self.lengths):,} examples)"

    @property
    def left_out(self) -> NDArray[numpy.int64]:
        """The examples of which nothing would be learned."""
        return numpy.setdiff1d(numpy.arange(len(self.lengths)), self.kept)

    def told(self, part: str) -> list[str]:
        """One sentence each for what was cut and what was left out; empty where all is whole.

        Args:
            part: of which the examples are, such as `training`.
        """
        long, unended, gone = int((self.lengths > self.max_length).sum()), int((~self.ended).sum()), self.left_out
        sentences = []
        if long:
            sentences.append(
                f"{long:,} of {len(self.lengths):,} {part} examples are longer than model.max_length "
                f"({self.max_length} tokens; the longest has {int(self.lengths.max()):,}) and were cut; {unended:,} of "
                f"them lost the end of their answer."
            )
        if len(gone):
            rows = ", ".join(str(number + 1) for number in gone[:5]) + (", ..." if len(gone) > 5 else "")
            sentences.append(
                f"{len(gone):,} {part} examples are left out, since nothing of their answers is left after cutting: "
                f"{rows}."
            )
        return sentences


def uncut(tokens: Tokens, max_length: int) -> RenderedTokens:
    """Tokens of which each example is whole, such as the pieces of split texts."""
    every = numpy.arange(len(tokens))
    return RenderedTokens(tokens, every, tokens.lengths, every >= 0, max_length)


def render_tokens(examples: Sequence[Example], renderer: Renderer) -> RenderedTokens:
    """The ids of examples with what is learned of them.

    Raises:
        DataError, ModelError: as `render`, or nothing is learned of any example.
    """
    return _together(list(_rendered(examples, renderer)), renderer.max_length)


def render_tokens_once(examples: Sequence[Example], renderer: Renderer, fingerprint: str) -> RenderedTokens:
    """What `render_tokens` gives, memory-mapped from a cache that is keyed by the examples and the renderer.

    Args:
        examples: to render.
        renderer: of the base.
        fingerprint: of the tokenizer, everything about it but its chat template.

    Where the cache cannot be written the tokens are made in memory.

    Raises:
        DataError, ModelError: as `render_tokens`.
    """
    try:
        folder = made_once(f"rendered/{_digest(examples, renderer, fingerprint)}", partial(_write, examples, renderer))
        return _read(folder, renderer.max_length)
    except (OSError, ValueError):
        return render_tokens(examples, renderer)


def _rendered(examples: Sequence[Example], renderer: Renderer) -> Iterator[Rendered]:
    for first in range(0, len(examples), _EXAMPLES_A_TIME):
        yield from render(examples[first : first + _EXAMPLES_A_TIME], renderer, first)


def _together(found: Sequence[Rendered], max_length: int) -> RenderedTokens:
    kept = [number for number, one in enumerate(found) if one.supervised.any()]
    if not kept:
        raise DataError(
            f"Of none of the {len(found):,} examples anything is left to learn within model.max_length ({max_length} "
            f"tokens): raise it, or set data.truncate = 'prompt_start', which keeps the answers."
        )
    some = [found[number] for number in kept]
    counts = numpy.array([len(one.ids) for one in some], dtype=numpy.int64)
    tokens = Tokens(
        ids=numpy.concatenate([one.ids for one in some]),
        starts=numpy.concatenate([[0], numpy.cumsum(counts)]).astype(numpy.int64),
        labels=numpy.zeros(len(some), dtype=numpy.int64),
        supervised=numpy.concatenate([one.supervised for one in some]),
        text_bytes=numpy.array([one.bytes for one in some], dtype=numpy.int64),
        answers=numpy.array([one.answer for one in some], dtype=numpy.int64),
    )
    return RenderedTokens(
        tokens=tokens,
        kept=numpy.array(kept, dtype=numpy.int64),
        lengths=numpy.array([one.length for one in found], dtype=numpy.int64),
        ended=numpy.array([one.whole_answer for one in found], dtype=numpy.bool_),
        max_length=max_length,
    )


def _digest(examples: Sequence[Example], renderer: Renderer, fingerprint: str) -> str:
    template = None if renderer.template is None else (renderer.template.source, renderer.template.end)
    settings = asdict(renderer.settings)
    names = renderer.tokenizer.special_tokens_map  # templates are given them
    key = [_VERSION, fingerprint, renderer.max_length, settings, template, renderer.leading, renderer.end, str(names)]
    digest = hashlib.sha256(json.dumps(key).encode())
    for example in examples:
        line = json.dumps(_texts(example)).encode()
        digest.update(len(line).to_bytes(8, "little") + line)
    return digest.hexdigest()


def _texts(example: Example) -> list[str] | list[list[str]]:
    """What is rendered of an example, so that no two examples share it."""
    match example:
        case PlainText(text=text):
            return [text]
        case Completion(prompt=prompt, completion=completion):
            return [prompt, completion]
        case Conversation(messages=messages):
            return [[message.role, message.content] for message in messages]


def _write(examples: Sequence[Example], renderer: Renderer, folder: Path) -> None:
    made = render_tokens(examples, renderer)
    tokens = made.tokens
    arrays: dict[str, NDArray[Any] | None] = {
        "starts": tokens.starts,
        "text_bytes": tokens.text_bytes,
        "ids": tokens.ids,
    }
    arrays |= {"supervised": tokens.supervised, "kept": made.kept, "answers": tokens.answers}
    arrays |= {"lengths": made.lengths, "ended": made.ended}
    for name, array in arrays.items():
        if array is not None:
            numpy.save(folder / f"{name}.npy", array)


def _read(folder: Path, max_length: int) -> RenderedTokens:
    def array(name: str) -> NDArray[numpy.int64]:
        found: NDArray[numpy.int64] = numpy.load(folder / f"{name}.npy")
        return found

    ids, supervised = (
        numpy.asarray(numpy.load(folder / f"{name}.npy", mmap_mode="r")) for name in ("ids", "supervised")
    )
    starts = array("starts")
    labels, text_bytes = numpy.zeros(len(starts) - 1, dtype=numpy.int64), array("text_bytes")
    tokens = Tokens(
        ids, starts, labels, cached=True, supervised=supervised, text_bytes=text_bytes, answers=array("answers")
    )
    ended = array("ended").astype(numpy.bool_)
    return RenderedTokens(tokens, array("kept"), array("lengths"), ended, max_length)
