# SPDX-License-Identifier: Apache-2.0
"""List the methods, and hold one against the laws."""

import json
from typing import Annotated

import typer

from fedlora.cli.command_line import app
from fedlora.errors import FedloraError, UserError


@app.command()
def methods(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in place of a table.")] = False,
) -> None:
    """List the methods: what each one is, and its own fields."""
    from fedlora.app.describe import describe_all, print_methods

    if as_json:
        typer.echo(json.dumps(describe_all(), indent=2))
    else:
        print_methods()


@app.command()
def check(
    name: Annotated[
        str | None, typer.Argument(help="A built-in method or stage, or file.py:Class; all methods by default.")
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Set one of its fields; may be repeated.")
    ] = None,
    examples: Annotated[int, typer.Option(min=1, help="Worlds to try a law on.")] = 25,
) -> None:
    """Hold a method or a stage against the law book: law, held or broken, smallest counter-example.

    First one small federation is run: what crashes there is told with the line of the file. In the worlds of the laws
    the fields that declare a Range are drawn within it, but those that --set fixes.
    """
    from fedlora.app.build.method import make_subject
    from fedlora.app.describe import print_verdicts
    from fedlora.methods import BUILT_IN

    if override and name is None:
        raise UserError("--set says nothing about all methods together: name the method or stage that has the field.")
    subjects = [make_subject(entry, override or ()) for entry in ([name] if name else BUILT_IN)]
    broken = [subject.name for subject, given in subjects if not print_verdicts(subject, given, examples)]
    if broken:
        raise FedloraError(f"broken laws: {', '.join(broken)}")
