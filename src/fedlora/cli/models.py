# SPDX-License-Identifier: Apache-2.0
"""Use what a run has made: export its adapter, ask its model."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from fedlora.cli.command_line import app
from fedlora.errors import RunFolderError


@app.command()
def export(
    run_folder: Annotated[Path, typer.Argument(help="A finished run.")],
    target: Annotated[Path, typer.Argument(help="Where the PEFT directory goes; must not exist.")],
    client: Annotated[str | None, typer.Option(help="A client's personal adapter in place of the global one.")] = None,
) -> None:
    """Copy a run's adapter out as a PEFT directory."""
    from fedlora.app.predict import adapter_folder

    source = adapter_folder(run_folder, client)
    if target.exists():
        raise RunFolderError(f"{target} already exists: choose another folder.")
    try:
        shutil.copytree(source, target)
    except OSError as error:  # shutil.Error, of several files, is one too
        shutil.rmtree(target, ignore_errors=True)
        reason = error.strerror or "some files could not be copied"
        raise RunFolderError(f"{target} cannot be written: {reason}. Make room, or choose another folder.") from error
    typer.echo(f"{target}: a PEFT directory; load it with PeftModel.from_pretrained.")


@app.command()
def predict(
    run_folder: Annotated[Path, typer.Argument(help="A finished run, or what a site keeps of one.")],
    texts: Annotated[list[str], typer.Argument(help="One or more texts.")],
    client: Annotated[str | None, typer.Option(help="Ask a client's personal model.")] = None,
    base: Annotated[
        str | None, typer.Option(help="Where the base is now, if it has moved: a folder, or a name on the hub.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Labels to show.")] = 3,
) -> None:
    """Ask a run's model for the label of a text."""
    from fedlora.app import predict as asking
    from fedlora.app.progress import quiet_libraries

    quiet_libraries()
    for text, ranked in zip(texts, asking.predict(run_folder, texts, client, base), strict=True):
        typer.echo(text)
        for label, chance in ranked[:top]:
            typer.echo(f"  {100 * chance:5.1f} %  {label}")


@app.command()
def generate(
    run_folder: Annotated[Path, typer.Argument(help="A finished run, or what a site keeps of one.")],
    prompts: Annotated[list[str], typer.Argument(help="One or more prompts.")],
    client: Annotated[str | None, typer.Option(help="Ask a client's personal model.")] = None,
    base: Annotated[
        str | None, typer.Option(help="Where the base is now, if it has moved: a folder, or a name on the hub.")
    ] = None,
    most: Annotated[
        int | None, typer.Option(min=1, help="Longest answer, in tokens; by default evaluate.most_new_tokens.")
    ] = None,
) -> None:
    """Have a run's language model answer a prompt, greedily."""
    from fedlora.app import generate as asking
    from fedlora.app.progress import quiet_libraries

    quiet_libraries()
    for prompt, answer in zip(prompts, asking.generate(run_folder, prompts, client, base, most), strict=True):
        typer.echo(prompt)
        for line in answer.text.strip().splitlines():
            typer.echo(f"  {line}")
