# SPDX-License-Identifier: Apache-2.0
"""Run one federation, or several side by side, and look at them."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from fedlora.cli.command_line import Override, Workers, app, interruptible
from fedlora.errors import UserError


@app.command()
def run(
    config: Annotated[Path | None, typer.Argument(help="A TOML file; without one, the defaults.")] = None,
    override: Override = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/NAME by default.")] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the run that the folder holds; with more rounds (--set run.rounds=N) a finished one, too.",
        ),
    ] = False,
    workers: Workers = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Train and write nothing: tell clients, parameters, bytes, memory and time."),
    ] = False,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Write the page after every round, not only at the end; open in a browser it reloads itself. The run "
            "waits while it is written, and tells at its end how long that was.",
        ),
    ] = False,
) -> None:
    """Run a federation on this machine and write its folder."""
    from fedlora.app.config.schema import read_config
    from fedlora.app.run.progress import dry_run_with_progress, quiet_libraries, run_with_progress
    from fedlora.app.run.watch import watched

    if dry_run and resume:
        raise UserError("--dry-run and --resume were both given: a dry run tells of a whole run; leave one out.")
    if config is None and resume and out and (out / "config.toml").is_file():
        config = out / "config.toml"
    settings = read_config(config, override or [])
    quiet_libraries()
    if dry_run:
        dry_run_with_progress(settings, workers)
        return
    folder = out or Path("runs") / settings.run.name
    follow = partial(watched, folder=folder, say=partial(print, flush=True)) if watch else iter
    with interruptible():
        run_with_progress(settings, folder, resume, workers, follow)


@app.command()
def compare(
    config: Annotated[Path, typer.Argument(help="A TOML file.")],
    methods: Annotated[str, typer.Option(help="Names, with commas between them.")],
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from run.seed on.")] = 1,
    override: Override = None,
    out: Annotated[Path | None, typer.Option(help="Where the runs go; runs/NAME-compared by default.")] = None,
    rates: Annotated[str, typer.Option(help="Learning rates to try for each method, with commas.")] = "",
    rate_rounds: Annotated[int, typer.Option(min=1, help="Rounds of such a trial.")] = 4,
    workers: Workers = None,
) -> None:
    """Run several methods on the same clients and write one table and page of all; goes on where it was stopped.

    With --rates every method first tries each rate for a few rounds, and takes the one that scores best on the
    validation part (split.validation).
    """
    from fedlora.app.build.dtype import with_dtype
    from fedlora.app.compare.compare import entries, trials
    from fedlora.app.compare.progress import compare_with_progress, try_rates
    from fedlora.app.config.schema import read_config
    from fedlora.app.run.progress import quiet_libraries

    settings = read_config(config, override or [])
    folder = out or Path("runs") / f"{settings.run.name}-compared"
    names = _words(methods)
    if not names:
        raise UserError("--methods names no method: give some, such as lora-a2,fedit,local.")
    quiet_libraries()
    settings = with_dtype(settings, folder)
    runs = entries(settings, names, seeds, folder)
    with interruptible("the same command goes on"):
        if rates:
            chosen = try_rates(trials(settings, names, _numbers(rates), rate_rounds, folder), workers)
            runs = entries(settings, names, seeds, folder, chosen)
        failed = compare_with_progress(runs, folder, workers)
    if failed:
        raise UserError(f"{len(failed)} of {len(runs)} runs failed. {' '.join(failed)}")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in _words(text)]
    except ValueError:
        raise UserError(f"--rates is {text!r}: give numbers with commas between them, such as 5e-4,2e-3.") from None


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders above them.")],
    out: Annotated[Path | None, typer.Option(help="Where the page goes; into the folder, if it is one.")] = None,
) -> None:
    """Write one page, and its table as Markdown and CSV, of one or many runs."""
    from fedlora.report.page import write_report

    if out is None and len(runs) > 1:
        raise UserError("Several folders were given: say with --out where the page should go.")
    typer.echo(str(write_report(runs, out or runs[0])))
