# SPDX-License-Identifier: Apache-2.0
"""A comparison with something to look at: which run of how many, how much time is left, and the table at the end."""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from fedlora.app.compare.compare import Entry, best_rates, compare
from fedlora.app.config.paths import short_class_name
from fedlora.app.run.duration import time_left
from fedlora.app.run.pages import write_page
from fedlora.app.run.progress import line_of, new_console
from fedlora.errors import FedloraError
from fedlora.federation.same_run import ROUNDS
from fedlora.report.plain import plain_table
from fedlora.report.read import group, read_runs
from fedlora.report.tables import rows
from fedlora.run_files import read_lines


def compare_with_progress(runs: Sequence[Entry], folder: Path, workers: int | None = None) -> list[str]:
    """Run a comparison, tell every round, write its table and page; returns a sentence for each failed run."""
    console = new_console()
    failed = run_entries(runs, console, workers)
    finished = [entry.folder for entry in runs if entry.finished]
    if finished:
        page = write_page(finished, folder)
        print_table(finished, console)
        if page:
            console.print(f"page: {page}")
    return failed


def try_rates(runs: Sequence[Entry], workers: int | None = None) -> dict[str, float]:
    """Run trials of learning rates, tell what they chose; returns the rate of each method."""
    console = new_console()
    console.print("trying learning rates on the validation part")
    run_entries(runs, console, workers)
    rates = best_rates(runs)
    told = ", ".join(f"{short_class_name(method)} {rate:g}" for method, rate in rates.items())
    console.print(f"learning rates chosen on the validation part: {told}")
    return rates


def run_entries(runs: Sequence[Entry], console: Console, workers: int | None = None) -> list[str]:
    """Run what is not finished and tell every round; returns a sentence for each failed run."""
    failed = []
    done = sum(entry.finished for entry in runs)
    if done:
        console.print(f"{done} of {len(runs)} runs are finished already")
    left = {entry.folder: _rounds_left(entry) for entry in runs}
    began, rounds = time.perf_counter(), 0
    for entry, step in compare(runs, workers=workers):
        name = f"{entry.label}, seed {entry.seed}"
        if step == "begins":
            console.print(f"run {1 + runs.index(entry)} of {len(runs)}: {name}", style="bold")
        elif isinstance(step, FedloraError):
            left[entry.folder] = 0
            failed.append(f"{name}: {step}")
            console.print(f"{name}: failed", style="red")
        else:
            rounds += 1
            left[entry.folder] = entry.config.run.rounds - step.round
            told = line_of(step, entry.config.run.rounds)
            remaining = time_left(time.perf_counter() - began, rounds, sum(left.values()))
            console.print("  ".join(filter(None, (f"{name}:", told, remaining))))
    return failed


def _rounds_left(entry: Entry) -> int:
    """The rounds that a run still has to train."""
    if entry.finished:
        return 0
    return max(0, entry.config.run.rounds - len(read_lines(entry.folder / ROUNDS)))


def print_table(folders: Sequence[Path], console: Console) -> None:
    """The one table of some runs."""
    width = shutil.get_terminal_size().columns if console.is_terminal else None
    console.print()
    for line in plain_table(rows(group(read_runs(folders))), width):
        console.print(line)
