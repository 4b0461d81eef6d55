# SPDX-License-Identifier: Apache-2.0
"""A first config for somebody's own data, with what was found in them and a word on every key."""

import math
import re
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import tomli_w

from fedlora.app.config import Config
from fedlora.app.sections import Key, keys, sections
from fedlora.errors import DataError, nearest
from fedlora.training.tables import part_file, read_rows

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


def look_at(path: Path, text: str | None = None, label: str | None = None, owner: str | None = None) -> Found:
    """Find the text, the label and possible owners in a file, or in a folder's training file.

    Args:
        path: of the data.
        text: the column with the text, where the caller knows it; None: it is guessed.
        label: the column with the label, likewise.
        owner: the column that says whose an example is; None: all that could are told.

    Raises:
        DataError: there is no column of text, or none of labels, or not the one that is named.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist: name a file, or a folder with train.* and test.*.")
    rows = read_rows(part_file(path, "train") if path.is_dir() else path)
    if not rows:
        raise DataError(f"{path} has no examples.")
    columns = {name: [str(row.get(name, "")) for row in rows] for name in rows[0]}
    for name in (text, label, owner):
        if name is not None and name not in columns:
            raise DataError(f"{path.name} has no column {name!r}: {nearest(name, columns)}")
    text = text or _text_column({name: cells for name, cells in columns.items() if name not in (label, owner)}, path)
    label = label or _label_column({name: cells for name, cells in columns.items() if name != owner}, text, path)
    counts = Counter(columns[label])
    lengths = sorted(max(len(cell.split()) * 1.5, len(cell) / 4) for cell in columns[text])
    owners = {
        name: len(set(values))
        for name, values in columns.items()
        if name not in (text, label) and 2 <= len(set(values)) <= len(rows) / 5
    }
    long = lengths[min(len(lengths) - 1, int(0.95 * len(lengths)))]
    labels = tuple(sorted(counts))
    return Found(len(rows), text, label, labels, min(counts.values()), owners, int(long) + 2, owner)


def _text_column(columns: dict[str, list[str]], path: Path) -> str:
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


def commented_config(path: Path, found: Found) -> str:
    """A TOML config that runs as it is: found values set, every other key with its default as a comment."""
    length = min(512, max(16, -(-found.tokens // 16) * 16))
    values: dict[str, dict[str, Any]] = {
        "run": {"name": path.stem.partition(".")[0], "rounds": 20},
        "data": {"source": "files", "path": str(path), "text": found.text, "label": found.label},
        "split": {**_split(found), "validation": 0.1},
        "model": {"base": "sentence-transformers/all-MiniLM-L6-v2", "max_length": length},
        "adapter": {"rank": 8},
        "train": {"epochs": 1, "lr": 1e-3},
        "method": {"name": "lora-a2"},
        "evaluate": {"every": 2},
    }
    lines = [
        f"# Made by fedlora init from {path.name}: {found.rows} examples, {len(found.labels)} labels, the rarest with "
        f"{found.rarest}.",
        "# Every key that is commented out stands at its default.",
    ]
    for owner, count in found.owners.items() if found.owner is None else ():
        lines.append(f"# The column {owner!r} ({count} values) may say whose an example is: split.kind = 'natural'.")
    for name, (section, repeated) in sections(Config).items():
        if not repeated and name != "deploy":
            lines += ["", f"[{name}]  # {(section.__doc__ or '').splitlines()[0]}"]
            lines += _section(section, values.get(name, {}))
    lines += ["", "# [[stage]]  # fedprox, clip, fedavgm or fedadam behind the method; as many as you like", "# name ="]
    return "\n".join(lines) + "\n"


def _split(found: Found) -> dict[str, Any]:
    """By the column that names the owner, else by labels over as many clients as the rows allow."""
    if found.owner is not None:
        return {"kind": "natural", "column": found.owner}
    return {"kind": "dirichlet", "clients": max(2, min(10, found.rows // 50)), "alpha": 0.5}


def _section(section: type, values: dict[str, Any]) -> Sequence[str]:
    lines = []
    for key in keys(section):
        lines += textwrap.wrap(_meaning(key), 118, initial_indent="# ", subsequent_indent="# ")
        if key.name in values:
            lines.append(_line(key.name, values[key.name]))
        else:
            lines.append(f"# {_line(key.name, key.default)}" if key.default is not None else f"# {key.name} =")
    return lines


def _meaning(key: Key) -> str:
    """What a key means, with all its choices where it has some: a reader of the file sees only one of them."""
    choices = _choices(key.type)
    return key.text if all(choice in key.text for choice in choices) else f"{key.text} One of: {', '.join(choices)}."


def _choices(annotation: Any) -> list[str]:
    """The words that a value may be; none where it is no choice among words."""
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in get_args(annotation)]
    if get_origin(annotation) is Annotated or get_origin(annotation) in (Union, UnionType):
        return [choice for inner in get_args(annotation) for choice in _choices(inner)]
    return []


def _line(key: str, value: Any) -> str:
    return tomli_w.dumps({key: value}).strip()
