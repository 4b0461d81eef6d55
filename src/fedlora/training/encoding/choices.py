# SPDX-License-Identifier: Apache-2.0
"""The texts among which examples are answered, as token ids behind one and the same prompt.

They are rendered as answers are in training. Where the longest text of an example does not fit behind its prompt, the
prompt loses its beginning for all texts alike: what follows different prompts could not be compared.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy
from numpy.typing import NDArray

from fedlora.errors import DataError
from fedlora.training.data.cells import shown
from fedlora.training.data.dialogues import Completion, Conversation, Example, PlainText
from fedlora.training.encoding.cutting import Rendered
from fedlora.training.encoding.render import Renderer, render
from fedlora.training.encoding.tokens import Choices, Tokens

_UNCUT = 2**31
_EXAMPLES_A_TIME = 500


@dataclass(frozen=True, slots=True, eq=False)
class EncodedChoices:
    """Choices with what was cut."""

    choices: Choices
    told: Sequence[str]
    """A sentence where prompts were cut; empty where all fit."""


def encode_choices(
    examples: Sequence[Example], scored: NDArray[numpy.int64] | None, renderer: Renderer, part: str
) -> EncodedChoices:
    """The choices of those examples that are scored.

    Args:
        examples: of a part of the data.
        scored: which of them, the others have no choices then; None: all.
        renderer: of the base.
        part: of which they are, such as `test`, for sentences.

    Raises:
        DataError: an example that is scored has no choices, one of them leaves no room for a prompt, or the tokenizer
            reads two of them alike.
        ModelError: as `render`.
    """
    order = numpy.arange(len(examples)) if scored is None else numpy.unique(scored)
    for number in order.tolist():
        if not _choices(examples[number]):
            raise DataError(
                f"Example {number + 1} of the {part} part is scored and has no texts to choose among, which "
                f"evaluate.metrics asks for: give all rows such a column (data.choices), or leave choice and "
                f"choice_per_byte out of evaluate.metrics."
            )
    some = [examples[number] for number in order.tolist()]
    found = [(example, *_fitting(example, made, renderer)) for example, made in _rendered(some, renderer)]
    sequences = [one for _, fitting, _ in found for one in fitting]
    counts = numpy.zeros(len(examples), dtype=numpy.int64)
    counts[order] = [len(fitting) for _, fitting, _ in found]
    texts = tuple(text for example, _, _ in found for text in _choices(example))
    cut = sum(excess > 0 for _, _, excess in found)
    told = [
        f"{cut:,} of {len(some):,} {part} examples lose the beginning of their prompt, for the texts to choose among "
        f"to fit into model.max_length ({renderer.max_length} tokens)."
    ]
    starts = numpy.concatenate([[0], numpy.cumsum(counts)]).astype(numpy.int64)
    return EncodedChoices(Choices(_tokens(sequences, texts), starts, texts), told if cut else [])


def _rendered(examples: Sequence[Example], renderer: Renderer) -> Iterator[tuple[Example, list[Rendered]]]:
    """Each example with its choices in the place of the answer, uncut."""
    uncut = replace(renderer, max_length=_UNCUT, settings=replace(renderer.settings, turns="last"))
    for first in range(0, len(examples), _EXAMPLES_A_TIME):
        some = examples[first : first + _EXAMPLES_A_TIME]
        made = iter(render([_answered(example, text) for example in some for text in _choices(example)], uncut))
        yield from ((example, list(islice(made, len(_choices(example))))) for example in some)


def _fitting(
    example: Example, made: Sequence[Rendered], renderer: Renderer
) -> tuple[list[tuple[NDArray[numpy.int32], int]], int]:
    """Of each choice the ids, without the one that ends an answer, and where the choice begins; and by how many tokens
    the prompt was cut."""
    excess = max(0, max(len(one.ids) for one in made) - renderer.max_length)
    before = made[0].answer
    if excess >= before:  # a choice's first token is predicted from the one before it
        longest = max(zip(made, _choices(example), strict=True), key=lambda pair: len(pair[0].ids))
        raise DataError(
            f"The text {shown(longest[1])} to choose has {len(longest[0].ids) - before} tokens with its end, but "
            f"model.max_length is {renderer.max_length}, which leaves no room for a prompt: raise it, or leave the "
            f"example out."
        )
    bos = int(before > 1 and int(made[0].ids[0]) == renderer.tokenizer.bos_token_id)
    found = []
    for one in made:
        end = len(one.ids) - int(int(one.ids[-1]) in renderer.stops)
        found.append((numpy.delete(one.ids[:end], slice(bos, bos + excess)), before - excess))
    _require_different([ids[first:] for ids, first in found], _choices(example))
    return found, excess


def _require_different(answers: Sequence[NDArray[numpy.int32]], texts: Sequence[str]) -> None:
    known: dict[tuple[int, ...], str] = {}
    for ids, text in zip(answers, texts, strict=True):
        other = known.setdefault(tuple(ids.tolist()), text)
        if not len(ids) or other != text:
            told = f"{shown(text)} as no token" if not len(ids) else f"{shown(other)} and {shown(text)} as the same"
            raise DataError(
                f"The base's tokenizer reads of the texts to choose among {told}, so that the model cannot choose: "
                f"mend the texts, or leave the example out."
            )


def _tokens(sequences: Sequence[tuple[NDArray[numpy.int32], int]], texts: Sequence[str]) -> Tokens:
    lengths = numpy.array([len(ids) for ids, _ in sequences], dtype=numpy.int64)
    masks = [numpy.arange(len(ids)) >= first for ids, first in sequences]
    return Tokens(
        ids=numpy.concatenate([numpy.zeros(0, dtype=numpy.int32), *(ids for ids, _ in sequences)]),
        starts=numpy.concatenate([[0], numpy.cumsum(lengths)]).astype(numpy.int64),
        labels=numpy.zeros(len(sequences), dtype=numpy.int64),
        supervised=numpy.concatenate([numpy.zeros(0, dtype=numpy.bool_), *masks]),
        text_bytes=numpy.array([len(text.encode()) for text in texts], dtype=numpy.int64),
        answers=numpy.array([first for _, first in sequences], dtype=numpy.int64),
    )


def _choices(example: Example) -> tuple[str, ...]:
    return () if isinstance(example, PlainText) else example.choices


def _answered(example: Example, text: str) -> Example:
    """An example with another answer."""
    match example:
        case Completion():
            return replace(example, completion=text)
        case Conversation(messages=messages):
            return replace(example, messages=(*messages[:-1], replace(messages[-1], content=text)))
        case PlainText():
            return example
