# SPDX-License-Identifier: Apache-2.0
"""Records as pandas frames. pandas comes with datasets and is imported where it is needed."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlora.report.read import group, read_runs
from fedlora.report.tables import comma_separated, rows

if TYPE_CHECKING:
    import pandas

_NESTED = ("global", "personal")


def history_frame(lines: Sequence[Mapping[str, Any]]) -> "pandas.DataFrame":
    """A row a round, indexed by it: what `rounds.jsonl` has, scores as `global_accuracy`, `personal_mean` and so on.

    A round that was not scored has NaN there.
    """
    import pandas

    flat = [_flat(line) for line in lines]
    names = list(dict.fromkeys(name for line in flat for name in line))
    return pandas.DataFrame(flat, columns=names or ["round"]).set_index("round")


def _flat(line: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in line.items():
        if name in _NESTED:
            found |= {f"{name}_{key}": number for key, number in (value or {}).items()}
        else:
            found[name] = value
    return found


def clients_frame(lines: Sequence[Mapping[str, Any]]) -> "pandas.DataFrame":
    """A row a client and round, as `clients.jsonl` has them, without the methods' notes."""
    import pandas

    told = [{name: value for name, value in line.items() if name != "notes"} for line in lines]
    return pandas.DataFrame(told)


def table_frame(folders: Sequence[Path]) -> "pandas.DataFrame":
    """A row a method, as `table.csv` has them: means and spreads over seeds.

    Raises:
        RunFolderError: a folder holds no run.
    """
    import pandas

    text = comma_separated(rows(group(read_runs(folders))))
    return pandas.read_csv(io.StringIO(text), dtype={"method": str, "ranks": str}).set_index("method")
