# SPDX-License-Identifier: Apache-2.0
"""Run a study, or a race for the best config: methods on the same partition draws, and what may be said of them."""

from pathlib import Path
from typing import Annotated

import typer

from fedlora.cli.command_line import Override, app, interruptible
from fedlora.errors import UserError


@app.command()
def study(
    name: Annotated[str | None, typer.Argument(help="A study that --list tells, or a TOML file.")] = None,
    size: Annotated[
        str | None, typer.Option(help="Which of its sizes; small by default, where the study has that.")
    ] = None,
    override: Override = None,
    data: Annotated[
        Path | None, typer.Option(help="The folder from which the study's relative paths of data sets are seen.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder of all studies, which share their runs; runs/studies by default.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Cells run at a time, one process with one thread each; one a core by default."),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Run part I of N only, such as 3/16; write no results."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Run and write nothing: tell cells, hours, bytes.")
    ] = False,
    results: Annotated[bool, typer.Option("--results", help="Run nothing: tell what the finished cells say.")] = False,
    list_all: Annotated[bool, typer.Option("--list", help="List the studies that come with fedlora.")] = False,
) -> None:
    """Run a study and write its results; the same command goes on where it was stopped.

    Every variant chooses its learning rate on draws of its own, is run on the reported draws, and is compared with the
    reference on each.
    """
    from fedlora.app.run.progress import quiet_libraries
    from fedlora.app.study.progress import (
        estimate_with_progress,
        list_studies,
        results_with_progress,
        study_with_progress,
    )
    from fedlora.app.study.reading import find_study, read_study
    from fedlora.app.study.studying import HOME

    if list_all:
        for line in list_studies():
            typer.echo(line)
        return
    if name is None:
        raise UserError("No study was named: give a TOML file, or a name that `fedlora study --list` tells.")
    part = _shard(shard) if shard is not None else None
    if results and (dry_run or part):
        raise UserError("--results runs nothing and tells of all cells: leave out --dry-run and --shard.")
    quiet_libraries()
    whole, home = read_study(find_study(name), size, override or [], data), out or HOME
    if dry_run:
        estimate_with_progress(whole, home, workers, part)
        return
    if results:
        results_with_progress(whole, home)
        return
    with interruptible("the same command goes on"):
        failed = study_with_progress(whole, home, workers, part)
    if failed:
        raise UserError(f"{len(failed)} cells failed. {' '.join(failed)}")


def _shard(text: str) -> tuple[int, int]:
    number, slash, shards = text.partition("/")
    if not (slash and number.isdigit() and shards.isdigit() and 1 <= int(number) <= int(shards)):
        raise UserError(f"--shard is {text!r}: give which part of how many, such as 3/16, counted from 1.")
    return int(number), int(shards)


@app.command()
def tune(
    config: Annotated[Path, typer.Argument(help="A TOML file with split.validation set.")],
    minutes: Annotated[float, typer.Option(help="Wall-clock minutes that the race may take.")],
    methods: Annotated[
        str | None, typer.Option(help="Names, with commas between them; by default those that fit the config.")
    ] = None,
    ranks: Annotated[
        str | None, typer.Option(help="Ranks, with commas; by default adapter.rank, its half and its double.")
    ] = None,
    lr: Annotated[str | None, typer.Option(help="Learning rates, with commas; by default five.")] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="Bytes up and down of the whole run, such as 20MB; candidates that send more are left out."),
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="global or personal; by default as the config's method is judged.")
    ] = None,
    draws: Annotated[int, typer.Option(help="Partition draws of the last rung, at most.")] = 10,
    override: Override = None,
    out: Annotated[Path | None, typer.Option(help="The folder; runs/tune by default.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Trials run at a time, one process with one thread each; one a core by default."),
    ] = None,
) -> None:
    """Find method, rank and learning rate for these clients, and write a config; the same command goes on.

    A race over paired partition draws, on the validation parts: many candidates on few rounds, the better ones on more,
    and at last two on all rounds and several draws, which tell how sure the choice is.
    """
    from fedlora.app.run.progress import quiet_libraries
    from fedlora.app.tune.progress import tune_with_progress

    quiet_libraries()
    with interruptible("the same command goes on"):
        tune_with_progress(
            config,
            override or [],
            minutes=minutes,
            methods=_words(methods),
            ranks=_numbers(ranks, int, "--ranks", "4,8"),
            lr=_numbers(lr, float, "--lr", "5e-4,2e-3"),
            budget=budget,
            judge=judge,
            draws=draws,
            out=out,
            workers=workers,
        )


def _words(text: str | None) -> list[str] | None:
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str | None, kind: type[int] | type[float], option: str, such_as: str) -> list[float] | None:
    try:
        return None if text is None else [kind(word) for word in _words(text) or ()]
    except ValueError:
        raise UserError(f"{option} is {text!r}: give numbers with commas between them, such as {such_as}.") from None
