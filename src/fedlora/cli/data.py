# SPDX-License-Identifier: Apache-2.0
"""Look at data and write a first config."""

from pathlib import Path
from typing import Annotated

import typer

from fedlora.cli.command_line import app
from fedlora.errors import UserError


@app.command()
def init(
    data: Annotated[Path, typer.Argument(help="A file, or a folder with train.* and test.*.")],
    out: Annotated[Path, typer.Option(help="The config to write; must not exist.")] = Path("fedlora.toml"),
    text: Annotated[str | None, typer.Option(help="The column with the text; guessed by default.")] = None,
    label: Annotated[str | None, typer.Option(help="The column with the label; guessed by default.")] = None,
    owner: Annotated[
        str | None, typer.Option(help="The column that says whose an example is; by default clients are drawn.")
    ] = None,
) -> None:
    """Write a commented config from the columns, labels and lengths of your data."""
    from fedlora.app.initialise import commented_config, look_at
    from fedlora.app.paths import seen_from

    found = look_at(data, text, label, owner)
    if out.exists():
        raise UserError(f"{out} already exists: choose another name with --out.")
    out.write_text(commented_config(seen_from(data, out.parent), found), encoding="utf-8")
    typer.echo(
        f"{out}: text {found.text!r}, label {found.label!r} with {len(found.labels)} values, {found.rows} examples. "
        "If these are the wrong columns: --text, --label, --owner. "
        f"Next: fedlora run {out}, or fedlora compare {out} --methods lora-a2,fedit,local"
    )
