# SPDX-License-Identifier: Apache-2.0
"""Use what a run has made: export its adapter, ask its model."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fedlora.cli.command_line import app
from fedlora.errors import UserError

BASE: Any = typer.Option(help="Where the base is now, if it has moved: a folder, or a name on the hub.")


@app.command()
def export(
    run_folder: Annotated[Path, typer.Argument(help="A finished run, or what a site keeps of one.")],
    target: Annotated[Path, typer.Argument(help="The folder to write; must not exist.")],
    client: Annotated[str | None, typer.Option(help="A client's personal adapter in place of the global one.")] = None,
    merged: Annotated[
        bool, typer.Option("--merged", help="Write a whole model: the base with the adapter added to its weights.")
    ] = False,
    vllm: Annotated[
        bool,
        typer.Option("--vllm", help="Write an adapter of one rank for all maps, filled up with zeros, as vLLM needs."),
    ] = False,
    base: Annotated[str | None, BASE] = None,
) -> None:
    """Take a run's model out: its adapter as a PEFT directory, or in a form that other programmes need."""
    from fedlora.app.finished import export as forms
    from fedlora.app.run.progress import quiet_libraries

    if merged and vllm:
        raise UserError("--merged and --vllm were both given: a whole model needs no adapter; choose one of them.")
    if merged or vllm:
        quiet_libraries()
        what = (forms.export_merged if merged else forms.export_one_rank)(run_folder, target, client, base)
    else:
        what = forms.export_copy(run_folder, target, client)
    typer.echo(f"{target}: {what}.")


@app.command()
def predict(
    run_folder: Annotated[Path, typer.Argument(help="A finished run, or what a site keeps of one.")],
    texts: Annotated[list[str], typer.Argument(help="One or more texts.")],
    client: Annotated[str | None, typer.Option(help="Ask a client's personal model.")] = None,
    base: Annotated[str | None, BASE] = None,
    top: Annotated[int, typer.Option(min=1, help="Labels to show.")] = 3,
) -> None:
    """Ask a run's model for the label of a text."""
    from fedlora.app.finished import predict as asking
    from fedlora.app.run.progress import quiet_libraries

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
    from fedlora.app.finished import generate as asking
    from fedlora.app.run.progress import quiet_libraries

    quiet_libraries()
    for prompt, answer in zip(prompts, asking.generate(run_folder, prompts, client, base, most), strict=True):
        typer.echo(prompt)
        for line in answer.text.strip().splitlines():
            typer.echo(f"  {line}")
