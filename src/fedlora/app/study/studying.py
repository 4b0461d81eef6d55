# SPDX-License-Identifier: Apache-2.0
"""`fedlora.study`: a study from its name or file to its results, as one object; and the same for the command line."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlora.app.build.clients import on_cpu
from fedlora.app.config.sections import override_key
from fedlora.app.study.cells import contents_of
from fedlora.app.study.plan import Study, config_at
from fedlora.app.study.pool import Pool
from fedlora.app.study.reading import find_study, make_study, read_study
from fedlora.app.study.results import RESULTS, write_results
from fedlora.app.study.runner import Place, Step, perform
from fedlora.core.machine import cores
from fedlora.errors import ConfigError, ReportError
from fedlora.report.study_page import write_study

if TYPE_CHECKING:
    import pandas

HOME = Path("runs") / "studies"
"""Where studies go by default: `cells/`, which they share, and a folder for the results of each."""


@dataclass(frozen=True)
class StudyResults:
    """What a study found."""

    folder: Path
    """With results.json, timings.json, table.md, table.csv and report.html."""
    results: Mapping[str, Any]
    """The contents of results.json."""
    page: Path | None
    failed: Mapping[str, str]
    """Cells that could not be run, and why."""

    def __repr__(self) -> str:
        failed = f", {len(self.failed)} failed" if self.failed else ""
        return f"StudyResults({len(self.results['cells'])} cells{failed}, {str(self.folder)!r})"

    @property
    def table(self) -> "pandas.DataFrame":
        """A row for each variant at each setting, of global and of personal models apart, as table.csv has them."""
        import pandas

        return pandas.read_csv(self.folder / "table.csv", keep_default_na=True)


def study(
    study: str | Path | Mapping[str, Any],
    *,
    size: str | None = None,
    overrides: Sequence[str] = (),
    data: str | Path | None = None,
    out: str | Path | None = None,
    workers: int | None = None,
) -> StudyResults:
    """Run a study. What its folder already has is not run again.

    Args:
        study: a name that `fedlora study --list` tells, the path of a TOML file, or nested mappings like one.
        size: which of its sizes; `small` by default, where it has that.
        overrides: keys of the config or of the study in place of its own, each as `section.key=value`.
        data: the folder from which the study's relative paths of data sets are seen.
        out: the folder of all studies; `runs/studies` by default.
        workers: cells at a time, one process with one thread each; one a core by default. Results do not depend on it.

    Raises:
        UserError: with one sentence about what does not fit. A cell that fails stops no other: see `failed`.
    """
    home = Path(out) if out is not None else HOME
    whole = _read(study, size, overrides, Path(data) if data is not None else None)
    failed = run_cells(whole, home, workers)
    return results_of(whole, home, failed)


def _read(
    study: str | Path | Mapping[str, Any], size: str | None, overrides: Sequence[str], data: Path | None
) -> Study:
    if isinstance(study, Mapping):
        above: dict[str, Any] = {}
        for override in overrides:
            override_key(above, override)
        return make_study(study, Path.cwd(), size, above, data)
    return read_study(find_study(str(study)), size, overrides, data)


def run_cells(
    study: Study,
    home: Path,
    workers: int | None = None,
    shard: tuple[int, int] = (1, 1),
    follow: Callable[[Step], object] = lambda step: None,
) -> Mapping[str, str]:
    """Run what is not done; returns what failed, and why. See `perform`.

    Raises:
        ConfigError: scipy, which the tables need, is not installed.
    """
    require_scipy()
    with Pool(workers_of(study, workers)) as pool:
        return perform(study, Place(home, cache(contents_of), pool), shard, follow).failed


def results_of(study: Study, home: Path, failed: Mapping[str, str]) -> StudyResults:
    """Write and tell the results of the cells that are there.

    Raises:
        RunFolderError: no reported cell is.
    """
    require_scipy()
    folder, found = write_results(study, home, cache(contents_of))
    return StudyResults(folder, found, _page(found, folder), failed)


def _page(found: Mapping[str, Any], folder: Path) -> Path | None:
    """The tables and the page; where they cannot be made, a sentence on stderr: the cells and results are whole."""
    try:
        return write_study(found, folder)
    except ReportError as error:
        print(f"fedlora: {error} {folder / RESULTS} is complete.", file=sys.stderr, flush=True)
        return None


def workers_of(study: Study, asked: int | None) -> int:
    """How many cells are run at a time: by default one a core, and one where a GPU computes."""
    if asked is not None:
        return asked
    return cores() if on_cpu(config_at(study, study.settings[0], study.variants[0])) else 1


def require_scipy() -> None:
    """Refuse to begin what could not be told at the end.

    Raises:
        ConfigError: scipy is not installed.
    """
    if find_spec("scipy") is None:
        raise ConfigError("The tables of a study need scipy, which is not installed: pip install 'fedlora[study]'.")
