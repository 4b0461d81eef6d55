# SPDX-License-Identifier: Apache-2.0
"""Run a study: methods on the same partition draws, and what may be said of them."""

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
