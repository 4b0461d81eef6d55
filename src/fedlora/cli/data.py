# SPDX-License-Identifier: Apache-2.0
"""Look at data and write a first config."""

from pathlib import Path
from typing import Annotated

import typer

from fedlora.cli.command_line import Override, app
from fedlora.errors import UserError


@app.command()
def init(
    data: Annotated[Path, typer.Argument(help="A file, or a folder with train.* and test.*.")],
    out: Annotated[Path, typer.Option(help="The config to write; must not exist.")] = Path("fedlora.toml"),
    task: Annotated[
        str | None, typer.Option(help="classify or generate (language modelling); by the columns by default.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="The column with the text; guessed by default.")] = None,
    label: Annotated[
        str | None,
        typer.Option(help="The column with the label, guessed by default; generate: the kind of an example."),
    ] = None,
    owner: Annotated[
        str | None, typer.Option(help="The column that says whose an example is; by default clients are drawn.")
    ] = None,
) -> None:
    """Write a commented config from the columns, labels or format, and lengths of your data."""
    from fedlora.app.config.first import find, first_config
    from fedlora.app.config.paths import seen_from

    found = find(data, task, text, label, owner)
    if out.exists():
        raise UserError(f"{out} already exists: choose another name with --out.")
    out.write_text(first_config(seen_from(data, out.parent), found), encoding="utf-8")
    typer.echo(
        f"{out}: {found.told()} Next: fedlora show {out} (the examples as tokens), fedlora run {out}, or "
        f"fedlora compare {out} --methods lora-a2,fedit,local"
    )


@app.command()
def show(
    config: Annotated[Path, typer.Argument(help="A TOML file, or the folder of a run.")],
    examples: Annotated[int, typer.Option(min=0, help="How many examples of each part to show token by token.")] = 3,
    override: Override = None,
) -> None:
    """Show what a model will be given and what it will learn: tokens, lengths, what is cut, and who owns what."""
    from fedlora.app.build.shown import shown
    from fedlora.app.config.schema import read_config
    from fedlora.app.run.progress import quiet_libraries

    path = config / "config.toml" if config.is_dir() else config
    quiet_libraries()
    for line in shown(read_config(path, override or []), examples):
        typer.echo(line)
