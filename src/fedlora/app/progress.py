# SPDX-License-Identifier: Apache-2.0
"""A run with something to look at: bars on a terminal, plain lines elsewhere."""

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from fedlora.app.build import Simulation, build
from fedlora.app.compare import Entry, best_rates, compare
from fedlora.app.config import Config
from fedlora.app.pages import write_page
from fedlora.app.paths import short_class_name
from fedlora.app.run import Run
from fedlora.core.rounds import Client, Failure, Order, Reply
from fedlora.errors import FedloraError
from fedlora.federation.client_states import ClientStates
from fedlora.federation.record import RoundRecord
from fedlora.federation.transport import Transport
from fedlora.report.read import group, read_runs
from fedlora.report.tables import SHORT, notes, rows, short_cells, size
from fedlora.training.forward.packed import PaddedInstead
from fedlora.training.memory import SmallerPortions


def quiet_libraries() -> None:
    """Keep progress bars and load reports of other libraries out of the way."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    for said in (SmallerPortions, PaddedInstead):
        warnings.simplefilter("always", said)
    warnings.showwarning = lambda message, *_: print(f"fedlora: {message}", file=sys.stderr)


class _Watched:
    """A transport that moves a bar with every answer."""

    def __init__(self, inner: Transport, progress: Progress, bar: TaskID) -> None:
        self._inner, self._progress, self._bar = inner, progress, bar

    def roster(self) -> Sequence[Client]:
        """The inner roster."""
        return self._inner.roster()

    def exchange(self, orders: Sequence[Order]) -> Iterator[Reply | Failure]:
        """The inner exchange."""
        doing = "clients" if not orders or orders[0].kind == "train" else "scores"
        self._progress.reset(self._bar, total=len(orders), description=doing)
        for answer in self._inner.exchange(orders):
            self._progress.advance(self._bar)
            yield answer


def run_with_progress(config: Config, folder: Path, resume: bool = False, workers: int | None = None) -> None:
    """Build, run and tell. Errors are the caller's."""
    console = Console(highlight=False, soft_wrap=True)
    with console.status("loading data and base") if console.is_terminal else nullcontext():
        simulation = build(config, workers=workers)
    for line in opening(simulation):
        console.print(line)
    if console.is_terminal:
        _with_bars(simulation, folder, resume, console)
    else:
        for record in _begun(simulation, folder, resume, console):
            print(line_of(record, simulation.config.run.rounds), flush=True)
    console.print(f"done: {folder}")


def _begun(simulation: Simulation, folder: Path, resume: bool, console: Console) -> Run:
    run = Run(simulation, folder, resume)
    if run.server.round:
        console.print(f"going on after round {run.server.round}")
    return run


def _with_bars(simulation: Simulation, folder: Path, resume: bool, console: Console) -> None:
    columns = (TextColumn("{task.description:8}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        rounds = progress.add_task("rounds", total=simulation.federation.plan.rounds)
        bar = progress.add_task("clients")

        def watched(client_states: ClientStates) -> Transport:
            return _Watched(simulation.connect(client_states), progress, bar)

        run = _begun(replace(simulation, connect=watched), folder, resume, console)
        progress.update(rounds, completed=run.server.round)
        for record in run:
            progress.advance(rounds)
            progress.console.print(line_of(record, simulation.config.run.rounds))


def compare_with_progress(runs: Sequence[Entry], folder: Path, workers: int | None = None) -> list[str]:
    """Run a comparison, tell every round, write its table and page; returns a sentence for each failed run."""
    console = Console(highlight=False, soft_wrap=True)
    failed = run_entries(runs, console, workers)
    finished = [entry.folder for entry in runs if entry.finished]
    if finished:
        page = write_page(finished, folder)
        print_table(finished, console)
        if page:
            console.print(f"the page: {page}")
    return failed


def try_rates(runs: Sequence[Entry], workers: int | None = None) -> dict[str, float]:
    """Run trials of learning rates, tell what they chose; returns the rate of each method."""
    console = Console(highlight=False, soft_wrap=True)
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
    for entry, step in compare(runs, workers=workers):
        name = f"{entry.label}, seed {entry.seed}"
        if isinstance(step, FedloraError):
            failed.append(f"{name}: {step}")
            console.print(f"{name}: failed", style="red")
        else:
            console.print(f"{name}:  {line_of(step, entry.config.run.rounds)}")
    return failed


def print_table(folders: Sequence[Path], console: Console) -> None:
    """The one table of some runs."""
    table = Table(*SHORT, box=None, pad_edge=False, header_style="bold")
    for column in table.columns:
        column.no_wrap, column.justify = True, "right"
    table.columns[0].justify = "left"
    found = rows(group(read_runs(folders)))
    for row in found:
        table.add_row(*short_cells(row))
    console.print()
    console.print(table)
    console.print(f"{max(row.rounds for row in found)} rounds, {max(row.seeds for row in found)} seed(s)", style="dim")
    console.print(Padding(notes(found[0].task), (1, 0, 1, 0)), style="dim", soft_wrap=False)


def opening(simulation: Simulation) -> list[str]:
    """What is about to run, in a few lines."""
    config, split, spec = simulation.config, simulation.split, simulation.spec
    sizes = sorted(len(owned.train) for owned in split.clients.values())
    ranks = sorted({client.rank for client in simulation.federation.transport.roster()})
    lines = [
        f"{config.method.name} on {simulation.dataset.origin}: {len(sizes)} clients with {sizes[0]} to {sizes[-1]} "
        f"training examples, {len(simulation.dataset.labels)} labels ({config.split.kind} split), "
        f"{len(simulation.dataset.test)} test examples",
        f"base {simulation.base.name}: {len(spec.shapes)} maps adapted, rank {', '.join(map(str, ranks))}, "
        f"scale {spec.scale:g}, head {simulation.federation.head_mode}",
    ]
    if simulation.dataset.origin == "generated":
        lines.append("The data are generated; the numbers say nothing about real text.")
    if split.empty:
        lines.append(f"left out, without any training example: {', '.join(split.empty)}")
    if split.unused:
        lines.append(f"{split.unused} training examples belong to no client in this split and are not used")
    return lines


def line_of(record: RoundRecord, rounds: int) -> str:
    """A round in one line."""
    absent = len([c for c in record.clients if c.status not in ("accepted", "idle")])
    words = [
        f"round {record.round}/{rounds}",
        f"{record.accepted} clients" + (f" ({absent} without a reply)" if absent else ""),
        f"loss {record.loss:.3f}" if record.loss is not None else "no loss",
    ]
    headline = record.scoring.headline
    whole = headline.of(record.global_score)
    if whole is not None:
        words.append(f"global {headline.words(whole)}")
    if record.personal is not None:
        words.append(f"personal {headline.words(record.personal.mean)}")
    words.append(f"up {size(record.traffic.up)}, down {size(record.traffic.down)}")
    words.append(f"{sum(record.seconds.values()):.1f} s")
    return "  ".join(words)
