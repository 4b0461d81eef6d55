# SPDX-License-Identifier: Apache-2.0
"""What all commands share: the line itself, options that stand in several commands, and Ctrl-C."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Annotated

import typer

app = typer.Typer(
    help="Federated fine-tuning of language models with low-rank adapters.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Override = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Change one key; may be repeated. Paths are seen from here, those in the file from the file's folder.",
    ),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Clients trained at a time, one core each; all cores by default.")
]


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"fedlora {version('fedlora')}")
        raise typer.Exit


@app.callback()
def root(
    show: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """Federated fine-tuning of language models with low-rank adapters."""


@contextmanager
def interruptible(how: str = "go on with --resume") -> Iterator[None]:
    """Ctrl-C ends in a sentence."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"fedlora: stopped; finished rounds are kept, {how}.", err=True)
        raise typer.Exit(1) from None
