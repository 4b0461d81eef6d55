# SPDX-License-Identifier: Apache-2.0
"""A study with something to look at: every cell as it ends, how much time is left, and the tables at the end."""

import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

from fedlora.app.run.duration import in_words, time_left
from fedlora.app.run.progress import new_console
from fedlora.app.study.cells import contents_of
from fedlora.app.study.estimate import estimate
from fedlora.app.study.plan import Study
from fedlora.app.study.reading import named_studies, read_study
from fedlora.app.study.results import cell_line
from fedlora.app.study.runner import Step, cell_folder
from fedlora.app.study.studying import StudyResults, results_of, run_cells, workers_of
from fedlora.federation.same_run import ENVIRONMENT
from fedlora.report.study_table import remarks, study_tables
from fedlora.report.tables import counted, size
from fedlora.report.task import MetricInfo, read_task
from fedlora.run_files import read_object


def study_with_progress(study: Study, home: Path, workers: int | None, shard: tuple[int, int] | None) -> list[str]:
    """Run a study, or a shard of it, and tell every cell and the tables; returns a sentence for each failure."""
    console = new_console()
    told = estimate_cells(study, shard or (1, 1))
    console.print(f"{study.folder_name}: {told}; cells are kept in {home / 'cells'}")
    failed = run_cells(study, home, workers, shard or (1, 1), _teller(home, console.print))
    if shard is not None:
        console.print(
            f"shard {shard[0]} of {shard[1]} is done; the same command without --shard, when all shards are, tells the "
            f"results"
        )
    else:
        _tell(results_of(study, home, failed), console.print)
    return [f"{label}: {reason}" for label, reason in failed.items()]


def results_with_progress(study: Study, home: Path) -> None:
    """Tell the results of the cells that are there, and run none."""
    _tell(results_of(study, home, {}), new_console().print)


def estimate_with_progress(study: Study, home: Path, workers: int | None, shard: tuple[int, int] | None) -> None:
    """Tell what a study would cost."""
    console, at_a_time = new_console(), workers_of(study, workers)
    found = estimate(study, home, cache(contents_of), at_a_time, shard or (1, 1))
    total = found.tuning + found.reported
    left = total - found.done
    console.print(f"cells        {total}: {found.tuning} to choose rates from, {found.reported} reported")
    console.print(f"done         {found.done}, {left} are left")
    if left:
        how = (
            "as long as like ones took"
            if found.measured == left
            else f"an estimate from a few steps, but for {found.measured} like ones that were run"
            if found.measured
            else "an estimate from a few steps on this machine"
        )
        console.print(
            f"time         about {in_words(found.seconds / min(at_a_time, left))}, {at_a_time} at a time: {how}"
        )
    console.print(f"bytes        about {size(found.bytes)} up and down, of all cells together")
    console.print("a dry run: nothing was written")


def estimate_cells(study: Study, shard: tuple[int, int]) -> str:
    """How many cells there are, in words."""
    draws, variants, settings = len(study.about.reported_draws), len(study.variants), len(study.settings)
    part = f", shard {shard[0]} of {shard[1]}" if shard != (1, 1) else ""
    return (
        f"{counted(variants, 'variant')} at {counted(settings, 'setting')} on {counted(draws, 'draw')}"
        f"{', each at a rate chosen on other draws' if study.tuning else ''}{part}"
    )


def list_studies() -> list[str]:
    """A line for every study that comes with fedlora: name, sizes, what it asks."""
    lines = []
    for name, path in named_studies().items():
        study = read_study(path)
        lines.append(f"{name}: {estimate_cells(study, (1, 1))}. {study.about.description}")
    return lines


def _teller(home: Path, say: Callable[[str], object]) -> Callable[[Step], None]:
    """Tells each cell in a line, with the time that is left of its part."""
    began: dict[str, float] = {}
    spent: dict[str, int] = {}
    start = time.perf_counter()

    def tell(step: Step) -> None:
        since = began.setdefault(step.part, start if not began else time.perf_counter())
        spent[step.part] = spent.get(step.part, 0) + step.cell.config.run.rounds
        rounds = sum(cell.config.run.rounds for cell in step.left)
        left = time_left(time.perf_counter() - since, spent[step.part], rounds)
        score = "failed" if step.error else _score(home, step)
        say(
            "  ".join(
                filter(
                    None, (f"{step.part} {step.cell.label}:", score, f"{counted(len(step.left), 'cell')} left", left)
                )
            )
        )

    return tell


def _score(home: Path, step: Step) -> str:
    line = cell_line(step.cell, home)
    metric = _headline(cell_folder(home, step.cell))
    words = []
    if line["global"]:
        words.append(f"global {metric.words(line['global'][metric.name])}")
    if line["personal"]:
        words.append(f"personal {metric.words(line['personal']['mean'])}")
    return "  ".join(words)


def _headline(folder: Path) -> MetricInfo:
    return read_task(read_object(folder / ENVIRONMENT)).headline


def _tell(found: StudyResults, say: Callable[[str], object]) -> None:
    """The tables in short, and where the whole is."""
    for table in study_tables(found.results):
        say("")
        say(f"{table.title[0].upper()}{table.title[1:]}")
        shown = [place for place, name in enumerate(table.columns) if name not in _LONG]
        lines = [table.columns, *table.rows]
        widths = {place: max(len(line[place]) for line in lines) for place in shown}
        for line in lines:
            cells = [line[p].ljust(widths[p]) if p == 0 else line[p].rjust(widths[p]) for p in shown]
            say("  ".join(cells).rstrip())
        for note in table.notes:
            say(note)
    say("")
    for remark in remarks(found.results):
        say(remark)
    say(f"results: {found.page or found.folder}")


_LONG = ("p, Holm", "worst tenth", "clients at 10, 50, 90 %", "bytes up")
"""Columns that the terminal leaves to the page."""
