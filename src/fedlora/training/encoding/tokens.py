# SPDX-License-Identifier: Apache-2.0
"""Token ids of many texts, end to end: made once, then read from the disk as they are needed."""

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from fedlora.training.cache import made_once
from fedlora.training.data.examples import Texts

_TEXTS_A_TIME = 10_000


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """Token ids of many examples, end to end."""

    ids: NDArray[numpy.int32]
    starts: NDArray[numpy.int64]
    """Where each example begins in `ids`; one more than examples, the last is the end."""
    labels: NDArray[numpy.int64]
    cached: bool = False
    """Whether they lie in the cache on disk; only then may what is computed of them lie there."""
    supervised: NDArray[numpy.bool_] | None = None
    """Which of `ids` are to be predicted, where that is what the model learns; None: it learns the labels."""
    text_bytes: NDArray[numpy.int64] | None = None
    """UTF-8 bytes of each example's supervised text, where there are supervised tokens."""
    answers: NDArray[numpy.int64] | None = None
    """Where in each example its last answer begins, if there are supervised tokens; before it is what a generation is
    given."""
    right_answers: tuple[tuple[str, ...], ...] | None = None
    """Of each example, all texts that count as right answers; None: none are known."""
    stops: tuple[int, ...] = ()
    """The ids at which a generated answer ends."""
    choices: "Choices | None" = None
    """Of some examples, the texts among which the model chooses; None: nothing is chosen."""

    def __repr__(self) -> str:
        return f"Tokens({len(self):,} texts)"

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> NDArray[numpy.int32]:
        return self.ids[self.starts[index] : self.starts[index + 1]]

    @property
    def lengths(self) -> NDArray[numpy.int64]:
        """Tokens of each example."""
        return numpy.diff(self.starts)

    def mask(self, index: int) -> NDArray[numpy.bool_]:
        """Which tokens of an example are to be predicted; none where there is no such mask."""
        if self.supervised is None:
            return numpy.zeros(int(self.starts[index + 1] - self.starts[index]), dtype=numpy.bool_)
        return self.supervised[self.starts[index] : self.starts[index + 1]]

    def prompt(self, index: int) -> NDArray[numpy.int32]:
        """The tokens of an example before its last answer: what a generation is given.

        Raises:
            ValueError: nobody knows where the answers begin.
        """
        if self.answers is None:
            raise ValueError("these examples have no answers")
        return self[index][: int(self.answers[index])]

    def right_answers_of(self, index: int) -> tuple[str, ...]:
        """All texts that count as right answers to an example; empty where none are known."""
        return () if self.right_answers is None else self.right_answers[index]

    def predicting(self, index: int) -> NDArray[numpy.int64]:
        """The places in an example whose output predicts a supervised token: one before each of them."""
        return numpy.flatnonzero(self.mask(index)[1:])

    def take(self, indices: NDArray[numpy.int64]) -> "Tokens":
        """Some of the examples, in memory."""
        lengths = self.lengths[indices]
        starts = _starts(lengths)
        places = numpy.arange(int(starts[-1])) + numpy.repeat(self.starts[indices] - starts[:-1], lengths)
        return Tokens(
            self.ids[places],
            starts,
            self.labels[indices],
            supervised=None if self.supervised is None else self.supervised[places],
            text_bytes=None if self.text_bytes is None else self.text_bytes[indices],
            answers=None if self.answers is None else self.answers[indices],
            right_answers=None if self.right_answers is None else tuple(self.right_answers[i] for i in indices),
            stops=self.stops,
            choices=None if self.choices is None else self.choices.take(indices),
        )

    @property
    def supervised_lengths(self) -> NDArray[numpy.int64]:
        """Tokens to be predicted of each example; zeros where there is no mask."""
        if self.supervised is None:
            return numpy.zeros(len(self), dtype=numpy.int64)
        counts = numpy.concatenate([[0], numpy.cumsum(self.supervised, dtype=numpy.int64)])
        return numpy.diff(counts[self.starts])


@dataclass(frozen=True, slots=True, eq=False)
class Choices:
    """The texts among which examples are answered, each as token ids behind its example's prompt."""

    tokens: Tokens
    """A sequence for each text, the texts of an example one behind another: the prompt, which is the same for all of
    them, and the text, whose tokens are supervised; the token that ends an answer is left out."""
    starts: NDArray[numpy.int64]
    """Where the texts of each example begin among the sequences; one more than examples, the last is the end."""
    texts: tuple[str, ...]
    """Of each sequence."""

    def __repr__(self) -> str:
        return f"Choices({len(self.texts):,} texts for {len(self.starts) - 1:,} examples)"

    def of(self, examples: NDArray[numpy.int64]) -> NDArray[numpy.int64]:
        """The sequences of some examples, in their order."""
        ranges = [numpy.arange(self.starts[e], self.starts[e + 1]) for e in examples.tolist()]
        return numpy.concatenate([numpy.zeros(0, dtype=numpy.int64), *ranges])

    def take(self, indices: NDArray[numpy.int64]) -> "Choices":
        """Those of some of the examples."""
        sequences, counts = self.of(indices), numpy.diff(self.starts)[indices]
        return Choices(self.tokens.take(sequences), _starts(counts), tuple(self.texts[i] for i in sequences))


def no_tokens() -> Tokens:
    """Those of no example."""
    nothing = numpy.zeros(0, dtype=numpy.int64)
    return Tokens(nothing.astype(numpy.int32), _starts(nothing), nothing)


def tokenise(texts: Texts, tokenizer: Any, max_length: int) -> Tokens:
    """The tokens of every text, special tokens included, cut at `max_length`."""
    ids, lengths = zip(*_encoded(texts, tokenizer, max_length), strict=True)
    return Tokens(numpy.concatenate(ids), _starts(numpy.concatenate(lengths)), texts.labels)


def tokenise_once(texts: Texts, tokenizer: Any, fingerprint: str, max_length: int) -> Tokens:
    """What `tokenise` gives, memory-mapped from a cache that is keyed by the texts and the tokenizer.

    Args:
        texts: of the examples.
        tokenizer: of the base.
        fingerprint: of the tokenizer, everything about it.
        max_length: tokens after which a text is cut.

    Where the cache cannot be written the tokens are made in memory.
    """
    digest = hashlib.sha256(f"{fingerprint} {max_length}\n".encode())
    for text in texts.texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    try:
        folder = made_once(f"tokens/{digest.hexdigest()}", partial(_write, texts, tokenizer, max_length))
        starts = numpy.load(folder / "starts.npy")
        ids = numpy.memmap(folder / "ids", dtype=numpy.int32, mode="r", shape=(int(starts[-1]),))
    except (OSError, ValueError):
        return tokenise(texts, tokenizer, max_length)
    return Tokens(numpy.asarray(ids), starts, texts.labels, cached=True)


def _write(texts: Texts, tokenizer: Any, max_length: int, folder: Path) -> None:
    lengths = []
    with (folder / "ids").open("wb") as file:
        for ids, count in _encoded(texts, tokenizer, max_length):
            file.write(ids.tobytes())
            lengths.append(count)
    numpy.save(folder / "starts.npy", _starts(numpy.concatenate(lengths)))


def _encoded(
    texts: Texts, tokenizer: Any, max_length: int
) -> Iterator[tuple[NDArray[numpy.int32], NDArray[numpy.int64]]]:
    """Ids end to end and the number of tokens of each text, some thousand texts at a time."""
    for first in range(0, max(len(texts), 1), _TEXTS_A_TIME):
        rows = tokenizer(
            list(texts.texts[first : first + _TEXTS_A_TIME]),
            truncation=True,
            max_length=max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        lengths = numpy.fromiter(map(len, rows), dtype=numpy.int64, count=len(rows))
        flat = itertools.chain.from_iterable(rows)
        yield numpy.fromiter(flat, dtype=numpy.int32, count=int(lengths.sum())), lengths


def _starts(lengths: NDArray[numpy.int64]) -> NDArray[numpy.int64]:
    return numpy.concatenate([[0], numpy.cumsum(lengths)]).astype(numpy.int64)
