# SPDX-License-Identifier: Apache-2.0
"""Labelled texts from files, the hub or the caller."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy

from fedlora.core.seeds import numpy_stream
from fedlora.errors import DataError
from fedlora.training.data.examples import Dataset, Texts
from fedlora.training.data.tables import Part, Rows, part_file, read_rows
from fedlora.training.quiet import quiet_data


@dataclass(frozen=True, slots=True)
class Columns:
    """What the columns of a table are called."""

    text: str = "text"
    label: str = "label"
    group: str | None = None


def from_files(
    path: Path, columns: Columns, test_share: float = 0.2, seed: int = 0, labels: Sequence[str] | None = None
) -> Dataset:
    """Read a file, or a folder with `train.*` and `test.*` (jsonl, csv, tsv, parquet; plain or gzip).

    A single file is cut at random into training and test examples.

    Raises:
        DataError: what cannot be read, and why.
    """
    if path.is_dir():
        tables = {part: read_rows(part_file(path, part)) for part in ("train", "test")}
        return from_rows(tables["train"], tables["test"], columns, path.name, labels)
    if not path.is_file():
        raise DataError(f"data.path is {str(path)!r}, but there is no such file or folder.")
    rows = read_rows(path)
    _require_columns(rows, columns, "", path.name)  # before it is cut, so that rows are counted as in the file
    found = sorted({str(row[columns.label]) for row in rows})  # a rare label may fall into the test part alone
    train, test = cut_off_test(rows, test_share, seed)
    return from_rows(train, test, columns, path.name, labels or tuple(found))


def cut_off_test(rows: Rows, test_share: float, seed: int) -> tuple[Rows, Rows]:
    """Training and test rows out of one table, drawn by the seed, both in their old order.

    Raises:
        DataError: one of the parts would be empty.
    """
    order = numpy_stream(seed, "test part").permutation(len(rows))
    cut = round(len(rows) * test_share)
    if cut in (0, len(rows)):
        raise DataError(
            f"There are {len(rows)} examples in one table, of which a test_share of {test_share:g} (data.test_share) "
            f"makes {cut} test examples and {len(rows) - cut} training examples: give more examples or another share, "
            f"or a test part of its own."
        )
    test, train = sorted(order[:cut].tolist()), sorted(order[cut:].tolist())
    return [rows[i] for i in train], [rows[i] for i in test]


def from_hub(name: str, columns: Columns, labels: Sequence[str] | None = None) -> Dataset:
    """Load a dataset of the hub that has a `train` and a `test` part.

    Raises:
        DataError: it cannot be reached, or lacks a part.
    """
    named = hub_rows(name, columns.label, ("train", "test"))
    return from_rows(named["train"], named["test"], columns, name, labels)


def hub_rows(name: str, label: str, parts: Sequence[Part]) -> dict[Part, Rows]:
    """Some parts of a dataset of the hub.

    Raises:
        DataError: it cannot be reached, or lacks a part.
    """
    import datasets

    try:
        with quiet_data():
            loaded = datasets.load_dataset(name)
    except Exception as error:
        raise DataError(
            f"The dataset {name!r} could not be loaded from the hub ({type(error).__name__}): check the name and "
            f"the network, or put files on disk and set data.source = 'files' and data.path."
        ) from error
    for part in parts:
        if part not in loaded:
            raise DataError(f"The dataset {name!r} has no part {part!r}, only {', '.join(loaded)}.")
    return {part: named_rows(loaded[part], label) for part in parts}


def named_rows(table: Any, column: str) -> Rows:
    """Rows of a table of the datasets library; a label is the name that the table's features give to its number."""
    feature = table.features.get(column)
    names = getattr(feature, "names", None)
    rows = table.to_list()
    return [{**row, column: names[row[column]]} for row in rows] if names else rows


def from_rows(train: Rows, test: Rows, columns: Columns, origin: str, labels: Sequence[str] | None = None) -> Dataset:
    """A dataset from tables.

    Args:
        train: rows of the training set.
        test: rows of the test set.
        columns: what their columns are called.
        origin: where they come from.
        labels: the label names in order; by default those of the training set, sorted.

    Raises:
        DataError: empty data, a missing column, half a character, a single label, or a test label that training
            lacks.
    """
    parts: tuple[tuple[Part, Rows], ...] = (("train", train), ("test", test))
    for part, rows in parts:
        if not rows:
            raise DataError(f"{origin}: the {part} part has no examples.")
        wanted = columns if part == "train" else replace(columns, group=None)
        _require_columns(rows, wanted, f" of the {part} part", origin)
    if columns.group is not None:
        _require_names(train, columns.group, origin)
    found = sorted({str(row[columns.label]) for row in train})
    names = tuple(labels) if labels else tuple(found)
    for name in names:
        require_whole(name, f"data.labels: {name!r}")
    if len(names) < 2:
        raise DataError(
            f"{origin}: the column {columns.label!r} has a single label, {names[0]!r}; at least two are needed."
        )
    known, where = {name: index for index, name in enumerate(names)}, "data.labels" if labels else "the training part"
    return Dataset(
        _texts(train, columns, known, "train", origin=origin, where=where),
        _texts(test, columns, known, "test", origin=origin, where=where),
        names,
        origin,
    )


def from_lists(
    texts: Sequence[str],
    labels: Sequence[object],
    test_texts: Sequence[str] | None = None,
    test_labels: Sequence[object] | None = None,
    owners: Sequence[object] | None = None,
    *,
    test_share: float = 0.2,
    seed: int = 0,
) -> Dataset:
    """A dataset from the caller's lists.

    Args:
        texts: for training, and for the test set where no other is given.
        labels: of each text; anything that `str` tells apart.
        test_texts: for the test set; None: it is drawn from `texts`.
        test_labels: of each test text.
        owners: of each text whose it is, for `split={"kind": "natural"}`.
        test_share: without `test_texts`, the share of the texts that becomes the test set.
        seed: of that draw.

    Raises:
        DataError: lists of different lengths, or what `from_rows` refuses.
    """
    if (test_texts is None) != (test_labels is None):
        raise DataError("test_texts and test_labels belong together: give both, or neither to have a test set drawn.")
    if not 0.0 < test_share < 1.0:
        raise DataError(f"test_share is {test_share!r}; expected a number between 0 and 1.")
    if test_texts is None or test_labels is None:
        test_texts, test_labels = (), ()
    for name, one, other in (("texts", texts, labels), ("test_texts", test_texts, test_labels)):
        if len(one) != len(other):
            raise DataError(f"There are {len(one)} {name} but {len(other)} labels: give one label for each.")
    if owners is not None and len(owners) != len(texts):
        raise DataError(f"There are {len(texts)} texts but {len(owners)} owners: give one owner for each.")
    columns = Columns(group="owner" if owners is not None else None)
    train: list[dict[str, object]] = [{"text": t, "label": y} for t, y in zip(texts, labels, strict=True)]
    for row, owner in zip(train, owners or (), strict=False):
        row["owner"] = owner
    if test_texts:
        test = [{"text": t, "label": y} for t, y in zip(test_texts, test_labels, strict=True)]
        return from_rows(train, test, columns, origin="lists")
    names = tuple(sorted({str(label) for label in labels}))
    return from_rows(*cut_off_test(train, test_share, seed), columns, origin="lists", labels=names)


def _texts(rows: Rows, columns: Columns, known: Mapping[str, int], part: Part, *, origin: str, where: str) -> Texts:
    values = [str(row[columns.label]) for row in rows]
    strange = next((number for number, value in enumerate(values) if value not in known), None)
    if strange is not None:
        count = sum(value not in known for value in values)
        raise DataError(
            f"{origin}: row {strange + 1} of the {part} part has the label {values[strange]!r}, which is not among the "
            f"{len(known)} labels of {where} ({count} such rows): mend or remove them, or list all labels in "
            f"data.labels."
        )
    group = columns.group
    groups = None
    if group is not None and all(group in row for row in rows):
        groups = tuple(str(row[group]) for row in rows)
    texts = tuple(str(row[columns.text]) for row in rows)
    return Texts(texts, numpy.array([known[value] for value in values], dtype=numpy.int64), groups)


def _require_columns(rows: Rows, columns: Columns, part: str, origin: str) -> None:
    for column in (columns.text, columns.label, columns.group):
        if column is not None:
            _require_column(rows, column, part, origin)


def _require_column(rows: Rows, column: str, part: str, origin: str) -> None:
    for number, row in enumerate(rows, start=1):
        if column not in row or row[column] is None:
            there = ", ".join(repr(name) for name in row)
            raise DataError(
                f"{origin}: row {number}{part} has no column {column!r}; it has {there}. Set "
                f"data.text, data.label or split.column to one of these."
            )
        if isinstance(row[column], Mapping | list | bytes):
            raise DataError(
                f"{origin}: row {number}{part} has a {type(row[column]).__name__} in the column {column!r}, expected "
                f"text: name a column of plain texts or numbers, or unpack this one."
            )
        require_whole(str(row[column]), f"{origin}: row {number}{part}, column {column!r},")


def _require_names(rows: Rows, column: str, origin: str) -> None:
    for number, row in enumerate(rows, start=1):
        if not str(row[column]).strip():
            raise DataError(
                f"{origin}: row {number} of the train part has an empty {column!r}, which should say whose the example "
                f"is: fill it in, or leave the row out."
            )


def require_whole(text: str, where: str) -> None:
    """JSON can name half of a surrogate pair, which no tokenizer reads and no file holds."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])
        raise DataError(
            f"{where} holds {half}, half of a character (a lone surrogate): put the whole character there, or leave "
            f"it out."
        ) from error
