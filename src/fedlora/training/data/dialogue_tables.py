# SPDX-License-Identifier: Apache-2.0
"""A training set and a test set of language modelling from tables."""

from collections.abc import Sequence
from dataclasses import replace

import numpy

from fedlora.errors import DataError
from fedlora.training.data.dialogue_rows import Layout, dialogues_from_rows
from fedlora.training.data.dialogues import Dialogues
from fedlora.training.data.examples import Dataset
from fedlora.training.data.labelled import require_whole
from fedlora.training.data.tables import Part, Rows
from fedlora.training.settings import DataSettings


def dialogues_dataset(
    data: DataSettings, train: Rows, test: Rows, origin: str, group: str | None, *, choices: str | None = None
) -> Dataset:
    """Examples of language modelling from tables.

    Args:
        data: how rows hold the examples.
        train: rows of the training set.
        test: rows of the test set.
        origin: where they come from.
        group: the column that says whose an example is, in the training set.
        choices: the column with the texts to choose among; None: nobody chooses.

    Raises:
        DataError: a row holds no example.
    """
    layout = Layout(
        data.format, data.text, data.prompt, data.completion, data.context, data.messages, data.references, choices
    )
    kinds = _kinds(data, [*train, *test])

    def part(rows: Rows, name: Part) -> Dialogues:
        found = dialogues_from_rows(rows, layout, name, origin, group if name == "train" else None)
        if not kinds:
            return found
        numbers = [kinds.index(str(row.get(data.label))) for row in rows]
        return replace(found, kinds=numpy.array(numbers, dtype=numpy.int64))

    return Dataset(part(train, "train"), part(test, "test"), tuple(kinds), origin)


def _kinds(data: DataSettings, rows: Rows) -> Sequence[str]:
    """The kinds of examples that the data name, sorted, or as the config lists them; empty where they name none."""
    found = sorted({str(row[data.label]) for row in rows if row.get(data.label) is not None})
    if not found or any(row.get(data.label) is None for row in rows):
        return ()
    for name in found:
        require_whole(name, f"The column {data.label!r}")
    strange = sorted(set(found) - set(data.labels or found))
    if strange:
        raise DataError(
            f"The column {data.label!r} has the kind {strange[0]!r}, which data.labels does not list: add it, or leave "
            f"data.labels out."
        )
    return data.labels or found
