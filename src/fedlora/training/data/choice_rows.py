# SPDX-License-Identifier: Apache-2.0
"""The texts of a row among which a model chooses its answer."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence

from fedlora.errors import DataError
from fedlora.training.data.cells import names, shown
from fedlora.training.data.labelled import require_whole


def choices_of(row: Mapping[str, object], column: str, place: str) -> tuple[str, ...]:
    """The choices of a row: a list, or as a table of plain cells (csv, tsv) has it, a list in JSON.

    Args:
        row: of a table.
        column: with the choices.
        place: of the row, for error sentences.

    Raises:
        DataError: there are none, fewer than two, an empty one or two that are equal.
    """
    given = row.get(column)
    if given is None:
        raise DataError(
            f"{place} has no column {column!r} with the texts to choose among, which evaluate.metrics asks for; it has "
            f"{names(row)}: name the column in data.choices, or leave choice and choice_per_byte out of "
            f"evaluate.metrics."
        )
    listed = _list(given)
    if listed is None:
        raise DataError(
            f"{place} has {shown(given)} in the column {column!r}, expected a list of texts to choose among (in csv "
            f'and tsv as JSON: ["yes", "no"]): mend it, or name another column in data.choices.'
        )
    texts = tuple(map(str, listed))
    if len(texts) < 2:
        raise DataError(
            f"{place} has {len(texts)} of the texts to choose among in the column {column!r}, expected at least two: "
            f"add the wrong answers, or leave the row out."
        )
    for text in texts:
        require_whole(text, f"{place}, column {column!r},")
        if not text.strip():
            raise DataError(f"{place} has an empty text to choose in the column {column!r}: leave it out.")
    text, times = Counter(texts).most_common(1)[0]
    if times > 1:
        raise DataError(
            f"{place} has {shown(text)} {times} times in the column {column!r} of texts to choose among, so that "
            f"nobody could tell which was chosen: leave all but one out."
        )
    return texts


def require_right_one(choices: Sequence[str], right: str, column: str, place: str) -> None:
    """Refuse choices among which the right answer is not.

    Raises:
        DataError: with both.
    """
    if choices and right not in choices:
        raise DataError(
            f"{place} has the right answer {shown(right)}, which is not among the texts to choose among in the column "
            f"{column!r} ({shown(list(choices))}): write both alike, to the last space."
        )


def _list(given: object) -> Sequence[str | int | float] | None:
    """The list that a cell holds; None: it holds no list of texts or numbers."""
    found = given
    if isinstance(given, str):
        try:
            found = json.loads(given)
        except (ValueError, RecursionError):
            return None
    if not isinstance(found, Sequence) or isinstance(found, str):
        return None
    return found if all(isinstance(value, str | int | float) for value in found) else None
