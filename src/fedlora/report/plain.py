# SPDX-License-Identifier: Apache-2.0
"""The table as plain text, for terminals and pipes: no figure is ever cut.

What is the same in all rows stands in a line above the table. Where the rest is wider than the terminal, the columns
go on in a second block.
"""

import textwrap
from collections.abc import Sequence

from fedlora.report.tables import Row, cells, columns, counted, notes

_SHORT = ("global", "personal", "worst tenth", "steps", "bytes up", "bytes down")
"""What is shown of every row, whatever the others have."""
_SETTINGS = ("ranks", "scale", "lr of A", "lr of B", "seeds", "rounds")
"""What is shown of every row only where rows differ in it."""
_GAP = "  "


def plain_table(table: Sequence[Row], width: int | None) -> list[str]:
    """The lines of the table.

    Args:
        table: at least one row.
        width: of the terminal, in characters; None: lines may have any length.
    """
    names = columns(table[0].task)
    by_name = [dict(zip(names, cells(row), strict=True)) for row in table]
    differing = [name for name in _SETTINGS if len({row[name] for row in by_name}) > 1]
    blocks = _blocks([[name, *(row[name] for row in by_name)] for name in ("method", *_SHORT, *differing)], width)
    lines = [_constants(by_name[0], differing), ""]
    for number, block in enumerate(blocks):
        lines += [""] * (number > 0) + [_GAP.join(cells_of_line).rstrip() for cells_of_line in zip(*block, strict=True)]
    return [*lines, "", *textwrap.wrap(notes(table), width or 120)]


def _constants(row: dict[str, str], differing: Sequence[str]) -> str:
    """What all rows have in common, as a sentence."""
    same = {name: row[name] for name in _SETTINGS if name not in differing and row[name] != "-"}
    words = [counted(int(same[name]), name[:-1]) for name in ("rounds", "seeds") if name in same]
    words += [f"{word} {same[name]}" for name, word in (("ranks", "rank"), ("scale", "scale")) if name in same]
    rates = [f"{same[name]} ({name[-1]})" for name in ("lr of A", "lr of B") if name in same]
    if len(rates) == 2 and same["lr of A"] == same["lr of B"]:
        rates = [same["lr of A"]]
    return ", ".join([*words, *([f"learning rate {' and '.join(rates)}"] if rates else [])])


def _blocks(table: Sequence[Sequence[str]], width: int | None) -> list[list[list[str]]]:
    """Columns, padded to equal width, in as many blocks as the width needs; every block has the first column."""
    first, *others = [_padded(column, left=number == 0) for number, column in enumerate(table)]
    blocks = [[first]]
    for column in others:
        used = sum(len(_GAP) + len(present[0]) for present in blocks[-1]) + len(column[0])
        if width is not None and used > width and len(blocks[-1]) > 1:
            blocks.append([first])
        blocks[-1].append(column)
    return blocks


def _padded(column: Sequence[str], *, left: bool) -> list[str]:
    width = max(map(len, column))
    return [cell.ljust(width) if left else cell.rjust(width) for cell in column]
