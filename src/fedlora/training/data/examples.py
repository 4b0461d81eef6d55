# SPDX-License-Identifier: Apache-2.0
"""Examples as they are dealt to clients: labelled texts, and what every task's examples have in common."""

from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy
from numpy.typing import NDArray

from fedlora.core.seeds import numpy_stream


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """Examples in a fixed order."""

    texts: tuple[str, ...]
    labels: NDArray[numpy.int64]
    """Of each text, its index into the dataset's label names."""
    groups: tuple[str, ...] | None = None
    """Of each text, whose it is by nature (a column of the data)."""

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self) -> str:
        return f"Texts({len(self):,} texts)"

    def take(self, indices: NDArray[numpy.int64]) -> "Texts":
        """Some of the examples."""
        groups = None if self.groups is None else tuple(self.groups[i] for i in indices)
        return Texts(tuple(self.texts[i] for i in indices), self.labels[indices], groups)

    def owned_by(self, name: str) -> "Texts":
        """The same examples, all of one owner."""
        return replace(self, groups=(name,) * len(self))


class Examples(Protocol):
    """Examples of any task, in a fixed order, as far as dealing them to clients goes."""

    @property
    def labels(self) -> NDArray[numpy.int64]:
        """Of each example, the number of its label or kind; all 0 where there are none."""
        ...

    @property
    def groups(self) -> tuple[str, ...] | None:
        """Of each example, whose it is by nature (a column of the data)."""
        ...

    def __len__(self) -> int: ...

    def take(self, indices: NDArray[numpy.int64]) -> Self:
        """Some of the examples."""
        ...

    def owned_by(self, name: str) -> Self:
        """The same examples, all of one owner."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """A training set, a test set and the names of the labels."""

    train: Examples
    test: Examples
    labels: tuple[str, ...]
    """Of labelled texts their labels; of examples of language modelling their kinds, if the data name such."""
    origin: str
    """Where it comes from, for the record."""

    def __repr__(self) -> str:
        parts = f"{len(self.train):,} training and {len(self.test):,} test examples"
        return f"Dataset({parts}, {len(self.labels)} labels, from {self.origin!r})"

    def label_counts(self, indices: NDArray[numpy.int64]) -> list[int]:
        """How many of these training examples have each label."""
        counts: list[int] = numpy.bincount(self.train.labels[indices], minlength=len(self.labels)).tolist()
        return counts


def take_some(dataset: Dataset, train: int | None, test: int | None, seed: int) -> Dataset:
    """A random part of the examples, in their old order; None: all."""

    def some(examples: Examples, count: int | None, purpose: str) -> Examples:
        if count is None or count >= len(examples):
            return examples
        chosen = numpy_stream(seed, purpose).choice(len(examples), count, replace=False)
        return examples.take(numpy.sort(chosen))

    smaller = some(dataset.train, train, "training examples")
    return replace(dataset, train=smaller, test=some(dataset.test, test, "test examples"))
