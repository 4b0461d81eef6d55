# SPDX-License-Identifier: Apache-2.0
"""`fedlora.compare`: several methods on the same clients, as one object."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from fedlora.app.build.dtype import with_dtype
from fedlora.app.compare.compare import Entry, best_rates, entries, trials
from fedlora.app.compare.compare import compare as steps
from fedlora.app.config.handed import BaseModel, Data, Handed, handed
from fedlora.app.config.keys import Keys
from fedlora.app.config.schema import Config
from fedlora.app.finished.frames import table_frame
from fedlora.app.finished.loaded import LoadedRun
from fedlora.app.run.pages import write_page
from fedlora.errors import ConfigError, FedloraError, RunFolderError

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Comparison:
    """Runs of several methods and seeds, told side by side."""

    folder: Path
    """What is in it goes on where it was stopped."""
    runs: tuple[LoadedRun, ...]
    """The finished ones, seed by seed; each has its own page."""
    page: Path | None
    """The page of all of them."""
    failed: Mapping[str, str]
    """What failed, and why."""

    def __repr__(self) -> str:
        failed = f", {len(self.failed)} failed" if self.failed else ""
        return f"Comparison({len(self.runs)} runs{failed}, {str(self.folder)!r})"

    @property
    def table(self) -> "pandas.DataFrame":
        """A row a method: global, personal and worst-tenth scores (mean and spread over seeds), bytes both ways.

        Raises:
            RunFolderError: no run is finished.
        """
        if not self.runs:
            raise RunFolderError(f"{self.folder} has no finished run: {' '.join(self.failed.values())}")
        return table_frame([run.folder for run in self.runs])


def compare(
    config: Config | Mapping[str, Any] | str | Path | None = None,
    data: Data | None = None,
    *,
    methods: Sequence[str],
    seeds: int = 1,
    rates: Sequence[float] = (),
    rate_rounds: int = 4,
    base: BaseModel | None = None,
    tokenizer: Any = None,
    out: str | Path | None = None,
    workers: int | None = None,
    **keys: Unpack[Keys],
) -> Comparison:
    """Run several methods on the same clients. What its folder already has is not run again.

    Args:
        config: as for `run`.
        data: as for `run`.
        methods: names, or `path/to/file.py:Class`.
        seeds: how many, from the config's seed on.
        rates: learning rates that each method tries for `rate_rounds` rounds on the validation part, of which it takes
            the best; this needs `split={"validation": ...}`.
        rate_rounds: rounds of such a trial.
        base: as for `run`.
        tokenizer: as for `run`.
        out: where the runs go; `runs/NAME-compared` by default.
        workers: as for `run`.
        **keys: as for `run`.

    Raises:
        UserError: with one sentence about what does not fit. A run that fails later stops no other: see `failed`.
    """
    if isinstance(methods, str) or not methods:
        raise ConfigError(f'methods is {methods!r}; expected a list of names, such as ["lora-a2", "fedit"].')
    given = handed(config, data, base, tokenizer, keys)
    folder = Path(out) if out is not None else Path("runs") / f"{given.config.run.name}-compared"
    whole = with_dtype(given.config, folder, given.model)
    runs = entries(whole, methods, seeds, folder)
    if rates:
        tried = trials(whole, methods, rates, rate_rounds, folder)
        _run(tried, given, workers)
        runs = entries(whole, methods, seeds, folder, best_rates(tried))
    failed = _run(runs, given, workers)
    finished = [entry.folder for entry in runs if entry.finished]
    page = write_page(finished, folder) if finished else None
    return Comparison(folder, tuple(map(LoadedRun, finished)), page, failed)


def _run(runs: Sequence[Entry], given: Handed, workers: int | None) -> dict[str, str]:
    """Run what is not finished; returns what failed, and why."""
    failed = {}
    for entry, step in steps(runs, given.dataset, workers, given.model):
        if isinstance(step, FedloraError):
            failed[f"{entry.label}, seed {entry.seed}"] = str(step)
    return failed
