# SPDX-License-Identifier: Apache-2.0
"""Labelled texts in a table: which columns they are, and what a first config for them sets."""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlora.app.config.commented import Values
from fedlora.errors import DataError, nearest
from fedlora.training.data.tables import Rows, part_file, read_rows

_TEXT_LENGTH = 12
"""Characters from which a column of words counts as text rather than as a name."""
_LABELS = {"label", "labels", "class", "category", "target", "intent"}
"""Words in the name of a column that holds the label."""
_OWNERS = {"owner", "user", "client", "customer", "site", "branch", "author", "speaker", "department", "hospital"}
"""Words in the name of a column that says whose an example is."""
_LOOKED_AT = 1000
"""Rows that are looked at to tell the label from other columns."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a table seems to hold."""

    rows: int
    text: str
    label: str
    labels: tuple[str, ...]
    rarest: int
    """Examples of the rarest label."""
    owners: dict[str, int]
    """Columns that could say whose an example is, with how many values."""
    tokens: int
    """A guess at the tokens of a long text (the 95th percentile)."""
    owner: str | None = None
    """The column that says whose an example is, where the caller named it."""

    def values(self, path: Path) -> Values:
        """What a first config sets.

        Args:
            path: of the data, as the config's folder sees it.
        """
        split: dict[str, Any] = {"kind": "dirichlet", "clients": some_clients(self.rows), "alpha": 0.5}
        if self.owner is not None:
            split = {"kind": "natural", "column": self.owner}
        return {
            "run": {"name": path.stem.partition(".")[0], "rounds": 20},
            "data": {"source": "files", "path": str(path), "text": self.text, "label": self.label},
            "split": {**split, "validation": 0.1},
            "model": {"base": "sentence-transformers/all-MiniLM-L6-v2", "max_length": room(self.tokens, 512)},
            "adapter": {"rank": 8},
            "train": {"epochs": 1, "lr": 1e-3},
            "method": {"name": "lora-a2"},
            "evaluate": {"every": 2},
        }

    def heading(self, path: Path) -> list[str]:
        """What was found, in lines for the top of the config."""
        found = (
            f"Made by fedlora init from {path.name}: {self.rows} examples, {len(self.labels)} labels, the rarest with "
            f"{self.rarest}."
        )
        return [found, *owner_lines(self.owners, self.owner)]

    def told(self) -> str:
        """What was found, in a sentence or two for the screen."""
        return (
            f"labelled texts: text {self.text!r}, label {self.label!r} with {len(self.labels)} values, {self.rows} "
            f"examples, to classify (--task generate makes a language model of them). If these are the wrong columns: "
            f"--text, --label, --owner."
        )


def owner_lines(owners: Mapping[str, int], owner: str | None) -> list[str]:
    """A line for each column that may say whose an example is; none where the caller has named one.

    Args:
        owners: such columns, with how many values.
        owner: the one that the caller named.
    """
    return [
        f"The column {name!r} ({count} values) may say whose an example is: split.kind = 'natural'."
        for name, count in (owners.items() if owner is None else ())
    ]


def some_clients(rows: int) -> int:
    """As many clients as so many examples allow."""
    return max(2, min(10, rows // 50))


def room(tokens: int, most: int) -> int:
    """A model.max_length for texts of about so many tokens: a multiple of 16, not above `most`."""
    return min(most, max(16, -(-tokens // 16) * 16))


def read_training_rows(path: Path) -> Rows:
    """The rows of a file, or of a folder's training file.

    Raises:
        DataError: there is no such file, it cannot be read, or it has no rows.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist: name a file, or a folder with train.* and test.*.")
    rows = read_rows(part_file(path, "train") if path.is_dir() else path)
    if not rows:
        raise DataError(f"{path} has no examples.")
    return rows


def require_columns(path: Path, columns: Collection[str], named: Iterable[str | None]) -> None:
    """Refuse a column that is named and not there.

    Raises:
        DataError: with the nearest name.
    """
    for name in named:
        if name is not None and name not in columns:
            raise DataError(f"{path.name} has no column {name!r}: {nearest(name, columns)}")


def look_at(
    path: Path, rows: Rows, text: str | None = None, label: str | None = None, owner: str | None = None
) -> Found:
    """Find the text, the label and possible owners in a table.

    Args:
        path: of the data, for error sentences.
        rows: of the table.
        text: the column with the text, where the caller knows it; None: it is guessed.
        label: the column with the label, likewise.
        owner: the column that says whose an example is; None: all that could are told.

    Raises:
        DataError: there is no column of text, or none of labels, or not the one that is named.
    """
    columns = {name: [str(row.get(name, "")) for row in rows] for name in rows[0]}
    require_columns(path, columns, (text, label, owner))
    text = text or text_column({name: cells for name, cells in columns.items() if name not in (label, owner)}, path)
    label = label or _label_column({name: cells for name, cells in columns.items() if name != owner}, text, path)
    counts = Counter(columns[label])
    owners = possible_owners({name: cells for name, cells in columns.items() if name not in (text, label)})
    labels = tuple(sorted(counts))
    return Found(len(rows), text, label, labels, min(counts.values()), owners, long_tokens(columns[text]) + 2, owner)


def possible_owners(columns: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """The columns that could say whose an example is, with how many values."""
    counts = {name: (len(set(cells)), len(cells)) for name, cells in columns.items()}
    return {name: values for name, (values, rows) in counts.items() if 2 <= values <= rows / 5}


def long_tokens(texts: Sequence[str]) -> int:
    """A guess at the tokens of a long text: the 95th percentile."""
    lengths = sorted(max(len(text.split()) * 1.5, len(text) / 4) for text in texts)
    return int(lengths[min(len(lengths) - 1, int(0.95 * len(lengths)))])


def text_column(columns: Mapping[str, Sequence[str]], path: Path) -> str:
    """The column that looks like text.

    Args:
        columns: those that may be it, with their cells.
        path: of the data, for the error sentence.

    Raises:
        DataError: none does.
    """
    means = {name: sum(map(len, cells)) / len(cells) for name, cells in columns.items()}
    best = max(means, key=lambda name: (name == "text", means[name]))
    if means[best] < _TEXT_LENGTH:
        raise DataError(f"{path.name}: no column looks like text among {', '.join(columns)}; is this the right file?")
    return best


def _label_column(columns: dict[str, list[str]], text: str, path: Path) -> str:
    """The column called label, else the one that the words of the text tell best, else a finer one that they tell too.

    A column that names owners, scenarios or departments is often told better than the label, because it has fewer
    values; where every value of another column belongs to one of its values, that one is the label.
    """
    counts = {name: len(set(cells)) for name, cells in columns.items() if name != text}
    total = len(columns[text])
    usable = {name: count for name, count in counts.items() if 2 <= count <= max(2, total / 2)}
    if not usable:
        told = ", ".join(f"{name} ({count} values)" for name, count in counts.items()) or "none"
        raise DataError(
            f"{path.name}: no column looks like a label besides the text {text!r}; the others are {told}. A label has "
            f"at least two values, each with several examples."
        )
    named = [name for name in usable if _words(name) & _LABELS]
    others = [name for name in usable if not _words(name) & _OWNERS]
    gains = {name: _told_by(columns[text], columns[name]) for name in named or others or usable}
    best = max(gains, key=lambda name: gains[name])
    finer = [
        name
        for name in gains
        if counts[name] > counts[best] and gains[name] > gains[best] / 2 and _decides(columns[name], columns[best])
    ]
    return max(finer, key=lambda name: gains[name], default=best)


def named_as_label(columns: Iterable[str]) -> bool:
    """Whether a column is called like one of labels."""
    return any(_words(name) & _LABELS for name in columns)


def _words(name: str) -> set[str]:
    return set(re.findall(r"[^\W\d_]+", name.lower()))


def _decides(values: Sequence[str], others: Sequence[str]) -> bool:
    """Whether every value of one column goes with a single value of another."""
    return len(set(zip(values, others, strict=True))) == len(set(values))


def _told_by(texts: Sequence[str], values: Sequence[str]) -> float:
    """How much better the words of every second text guess a value than the commonest value does (naive Bayes)."""
    texts, values = texts[:_LOOKED_AT], values[:_LOOKED_AT]
    words: dict[str, Counter[str]] = {}
    seen = Counter(values[::2])
    for text, value in zip(texts[::2], values[::2], strict=True):
        words.setdefault(value, Counter()).update(set(text.lower().split()))
    known = {word for counted in words.values() for word in counted}

    def guess(text: str) -> str:
        here = known & set(text.lower().split())
        return max(
            seen,
            key=lambda value: (
                math.log(seen[value]) + sum(math.log((words[value][w] + 0.1) / (seen[value] + 0.2)) for w in here)
            ),
        )

    asked = list(zip(texts[1::2], values[1::2], strict=True))
    right = sum(guess(text) == value for text, value in asked)
    common = Counter(value for _, value in asked).most_common(1)
    return (right - (common[0][1] if common else 0)) / max(1, len(asked))
