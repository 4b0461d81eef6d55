# SPDX-License-Identifier: Apache-2.0
"""`fedlora.tune`: from a config and some minutes to a better config, as one object."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fedlora.app.build.clients import on_cpu
from fedlora.app.build.dtype import with_dtype
from fedlora.app.config.keys import config_of
from fedlora.app.config.schema import Config, changed_config, read_config
from fedlora.app.config.sections import override_key
from fedlora.app.study.cells import contents_of
from fedlora.app.study.pool import Pool
from fedlora.app.study.runner import Place
from fedlora.app.study.studying import require_scipy
from fedlora.app.tune.asked import ask
from fedlora.app.tune.found import found
from fedlora.app.tune.race import race
from fedlora.app.tune.record import Record
from fedlora.app.tune.told import sentence
from fedlora.app.tune.written import BEST, TRIALS, write_found
from fedlora.core.machine import cores
from fedlora.federation.files import hold

if TYPE_CHECKING:
    import pandas

HOME = Path("runs") / "tune"
"""Where a tuning goes by default: `best.toml`, the results, and its trials below `cells/`."""


@dataclass(frozen=True)
class Tuned:
    """What a tuning found."""

    folder: Path
    """With best.toml, results.json, trials.csv, timings.json, race.json and the trials below cells/."""
    results: Mapping[str, Any]
    """The contents of results.json: winner, runner_up, comparison, rungs, left_out."""
    seconds: float
    """That the race took, over all calls that worked on it."""

    def __repr__(self) -> str:
        return f"Tuned({self.results['winner']['label']!r}, {self.results['trials']} trials, {str(self.folder)!r})"

    @property
    def config(self) -> Config:
        """The config that it ends with."""
        return read_config(self.folder / BEST)

    @property
    def sentence(self) -> str:
        """How sure the choice is."""
        return sentence(self.results)

    @property
    def trials(self) -> "pandas.DataFrame":
        """A row for each trial, as trials.csv has them."""
        import pandas

        return pandas.read_csv(self.folder / TRIALS)


def tune(
    config: Config | Mapping[str, Any] | str | Path,
    *,
    minutes: float,
    methods: Sequence[str] | None = None,
    ranks: Sequence[int] | None = None,
    lr: Sequence[float] | None = None,
    budget: str | int | None = None,
    judge: Literal["global", "personal"] | None = None,
    draws: int = 10,
    overrides: Sequence[str] = (),
    out: str | Path | None = None,
    workers: int | None = None,
    say: Callable[[str], object] = lambda line: None,
) -> Tuned:
    """Which method, rank and learning rate for these clients, on the validation parts; the test set is never scored.

    What its folder already has is not run again, and a call that was stopped goes on with the time that it had left.

    Args:
        config: a config, nested mappings, or the path of a TOML file; split.validation must be set.
        minutes: of wall-clock time; no trial is begun that is not expected to end in time.
        methods: names, or `path/to/file.py:Class`; by default the built-in ones that fit the config.
        ranks: by default adapter.rank, its half and its double, unless clients have ranks of their own.
        lr: learning rates; by default five, and one beyond where the best stands at an edge.
        budget: bytes up and down of the whole run and all clients, such as "20MB"; who sends more is left out.
        judge: global: candidates have one model for all; personal: clients may keep parts of their own. By default as
            the config's method is judged.
        draws: partition draws of the last rung, at most.
        overrides: keys of the config, each as `section.key=value`.
        out: the folder; `runs/tune` by default.
        workers: trials at a time, one process with one thread each; one a core by default. Which trials fit into the
            minutes depends on it, and no score does.
        say: is told what happens, line by line.

    Raises:
        UserError: with one sentence about what does not fit.
    """
    require_scipy()
    above: dict[str, Any] = {}
    for override in overrides:
        override_key(above, override)
    made, home = changed_config(config_of(config, {}), above), Path(out) if out is not None else HOME
    made = with_dtype(made, home, say=say)
    asked = ask(
        made,
        {
            "minutes": minutes,
            "methods": _list(methods),
            "ranks": _list(ranks),
            "lr": _list(lr),
            "budget": budget,
            "judge": judge,
            "draws": draws,
        },
    )
    contents = cache(contents_of)
    at_a_time = workers if workers is not None else cores() if on_cpu(made) else 1
    with hold(home) as let_go:
        record = Record(home, asked.identity(contents), 60.0 * asked.minutes)
        with Pool(at_a_time) as pool:
            race(asked, Place(home, contents, pool), record, say)
        results = found(asked, record)
        write_found(home, asked, results, record.tree["spent"])
        let_go()
    return Tuned(home, results, record.tree["spent"])


def _list(values: Sequence[Any] | None) -> list[Any] | None:
    """A list for the checks, which take no other sequence; a string stays one, and is refused."""
    return values if values is None or isinstance(values, str) else list(values)  # type: ignore[return-value]
