# SPDX-License-Identifier: Apache-2.0
"""A run with something to look at: bars on a terminal, plain lines elsewhere, and what came of it at the end."""

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from fedlora.app.build.dtype import with_dtype
from fedlora.app.build.simulation import Simulation, build
from fedlora.app.config.schema import Config
from fedlora.app.run.dry_run import dry_run, told
from fedlora.app.run.duration import time_left
from fedlora.app.run.run import Run
from fedlora.core.rounds import Client, Failure, Order, Reply
from fedlora.federation.client_states import ClientStates
from fedlora.federation.record import RoundRecord
from fedlora.federation.transport import Transport
from fedlora.report.ending import ending
from fedlora.report.tables import counted, size
from fedlora.training.forward.packed import PaddedInstead
from fedlora.training.forward.trunk import NoTrunk
from fedlora.training.memory import SmallerPortions


def new_console() -> Console:
    """Where the commands print to; lines are never broken or cut."""
    return Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


def quiet_libraries() -> None:
    """Keep progress bars and load reports of other libraries out of the way."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    for said in (SmallerPortions, PaddedInstead, NoTrunk):
        warnings.simplefilter("always", said)
    warnings.showwarning = lambda message, *_: print(f"fedlora: {message}", file=sys.stderr)


Follow = Callable[[Run], Iterator[RoundRecord]]
"""What goes through the rounds of a run: `iter`, or something that does more after each."""


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


def run_with_progress(
    config: Config, folder: Path, resume: bool = False, workers: int | None = None, follow: Follow = iter
) -> None:
    """Build, run and tell. Errors are the caller's."""
    console = new_console()
    simulation = _opened(with_dtype(config, folder), workers, console)
    if console.is_terminal:
        _with_bars(simulation, folder, resume, console, follow)
    else:
        _with_lines(simulation, folder, resume, console, follow)
    for line in ending(folder):
        console.print(line)


def dry_run_with_progress(config: Config, workers: int | None = None) -> None:
    """Tell what a run would cost. Errors are the caller's."""
    console = new_console()
    simulation = _opened(with_dtype(config), workers, console)
    with console.status("counting what the run would send") if console.is_terminal else nullcontext():
        lines = told(dry_run(simulation, workers))
    for line in [*lines, "a dry run: nothing was written"]:
        console.print(line)


def _opened(config: Config, workers: int | None, console: Console) -> Simulation:
    """Load everything and say what is about to run."""
    with console.status("loading data and base") if console.is_terminal else nullcontext():
        simulation = build(config, workers=workers)
    for line in opening(simulation):
        console.print(line)
    return simulation


def _begun(simulation: Simulation, folder: Path, resume: bool, console: Console) -> Run:
    run = Run(simulation, folder, resume)
    if run.finished:
        console.print(f"round {run.server.round} of {run.server.round} is done already: nothing is left to train")
    elif run.server.round:
        console.print(f"going on after round {run.server.round}")
    return run


def _with_lines(simulation: Simulation, folder: Path, resume: bool, console: Console, follow: Follow) -> None:
    run, rounds = _begun(simulation, folder, resume, console), simulation.config.run.rounds
    first, began = run.server.round, time.perf_counter()
    for record in follow(run):
        left = time_left(time.perf_counter() - began, record.round - first, rounds - record.round)
        print("  ".join(filter(None, (line_of(record, rounds), left))), flush=True)


def _with_bars(simulation: Simulation, folder: Path, resume: bool, console: Console, follow: Follow) -> None:
    columns = (TextColumn("{task.description:8}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        rounds = progress.add_task("rounds", total=simulation.federation.plan.rounds)
        bar = progress.add_task("clients")

        def watched(client_states: ClientStates) -> Transport:
            return _Watched(simulation.connect(client_states), progress, bar)

        run = _begun(replace(simulation, connect=watched), folder, resume, console)
        progress.update(rounds, completed=run.server.round)
        for record in follow(run):
            progress.advance(rounds)
            progress.console.print(line_of(record, simulation.config.run.rounds))


def opening(simulation: Simulation) -> list[str]:
    """What is about to run, in a few lines."""
    config, split, spec = simulation.config, simulation.split, simulation.spec
    sizes = sorted(len(owned.train) for owned in split.clients.values())
    ranks = sorted({client.rank for client in simulation.federation.transport.roster()})
    lines = [
        f"{simulation.federation.method.name} on {simulation.dataset.origin}: {counted(len(sizes), 'client')} with "
        f"{sizes[0]} to {sizes[-1]} training examples,{_labels(simulation)} {config.split.kind} split, "
        f"{len(simulation.dataset.test)} test examples",
        f"base {simulation.base.name}: {len(spec.shapes)} maps adapted, rank {', '.join(map(str, ranks))}, "
        f"scale {spec.scale:g}" + (f", head {simulation.federation.head_mode}" if simulation.head else ""),
    ]
    if simulation.dataset.origin == "generated":
        lines.append("The data are generated; the numbers say nothing about real text.")
    if split.empty:
        lines.append(f"left out, without any training example: {', '.join(split.empty)}")
    if split.small:
        lines.append(
            f"left out, with fewer than {config.split.min_examples} examples: {counted(len(split.small), 'client')}"
        )
    if split.unseen:
        count = sum(len(owned.test) for owned in split.unseen.values())
        lines.append(
            f"never trained, scored as newcomers: {counted(len(split.unseen), 'client')} with {count} examples"
        )
    if split.unused:
        lines.append(f"{split.unused} training examples belong to no client in this split and are not used")
    return lines


def _labels(simulation: Simulation) -> str:
    """How many labels there are, or kinds of examples; empty where the examples have neither."""
    count = len(simulation.dataset.labels)
    return f" {counted(count, 'label' if simulation.base.labels else 'kind')}," if count else ""


def line_of(record: RoundRecord, rounds: int) -> str:
    """A round in one line."""
    absent = sum(client.outcome == "failed" for client in record.clients)
    words = [
        f"round {record.round}/{rounds}",
        counted(record.accepted, "client") + (f" ({absent} without a reply)" if absent else ""),
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
