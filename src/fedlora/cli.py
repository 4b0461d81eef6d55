# SPDX-License-Identifier: Apache-2.0
"""The command line. Exit 0: done; 2: the input was wrong, one sentence on stderr; 1: anything else."""

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import unquote

import typer

from fedlora.errors import FedloraError, RunFolderError, UserError

if TYPE_CHECKING:
    from fedlora.methods.base import Method

app = typer.Typer(
    help="Federated fine-tuning of language models with low-rank adapters.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def run(
    config: Annotated[Path | None, typer.Argument(help="A TOML file; without one, the defaults.")] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one key; may be repeated.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/NAME by default.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run that the folder holds.")] = False,
) -> None:
    """Run a federation on this machine and write its folder."""
    from fedlora.app.config import read_config
    from fedlora.app.progress import quiet_libraries, run_with_progress

    if config is None and resume and out and (out / "config.toml").is_file():
        config = out / "config.toml"
    settings = read_config(config, override or [])
    quiet_libraries()
    with _interruptible():
        run_with_progress(settings, out or Path("runs") / settings.run.name, resume)


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
    method: Annotated[str | None, typer.Argument(help="A built-in method, or file.py:Class; all by default.")] = None,
    examples: Annotated[int, typer.Option(min=1, help="Worlds to try a law on.")] = 25,
) -> None:
    """Hold a method against the law book: law, held or broken, smallest counter-example."""
    from fedlora.app.describe import print_verdicts
    from fedlora.methods import BUILT_IN, find_method

    kinds = [find_method(method)] if method else list(BUILT_IN.values())
    broken = [kind.name for kind in kinds if not print_verdicts(_with_defaults(kind), examples)]
    if broken:
        raise FedloraError(f"broken laws: {', '.join(broken)}")


def _with_defaults(kind: "type[Method]") -> "Method":
    try:
        return kind()
    except TypeError as error:
        raise UserError(f"Method {kind.__name__} needs arguments: give its fields defaults.") from error


@app.command()
def export(
    run_folder: Annotated[Path, typer.Argument(help="A finished run.")],
    target: Annotated[Path, typer.Argument(help="Where the PEFT directory goes; must not exist.")],
    client: Annotated[str | None, typer.Option(help="A client's personal adapter in place of the global one.")] = None,
) -> None:
    """Copy a run's adapter out as a PEFT directory."""
    from fedlora.federation.journal import client_folder

    source = (client_folder(run_folder, client) if client else run_folder) / "adapter"
    if not (run_folder / "summary.json").is_file():
        raise RunFolderError(f"{run_folder} is no finished run: it has no summary.json.")
    if not source.is_dir():
        there = sorted(unquote(own.name) for own in (run_folder / "clients").glob("*"))
        hint = f"personal adapters: {', '.join(there)}; choose one with --client." if there else "it has none at all."
        what = f"no adapter of client {client!r}" if client else "no global adapter"
        raise RunFolderError(f"{run_folder} has {what}; {hint}")
    if target.exists():
        raise RunFolderError(f"{target} already exists: choose another folder.")
    shutil.copytree(source, target)
    typer.echo(f"{target}: a PEFT directory; load it with PeftModel.from_pretrained.")


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C ends in a sentence."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("fedlora: stopped; finished rounds are kept, go on with --resume.", err=True)
        raise typer.Exit(1) from None


def main() -> None:
    """Run the command line and leave with its exit code."""
    try:
        app()
    except UserError as error:
        sys.exit(_say(error, 2))
    except FedloraError as error:
        sys.exit(_say(error, 1))


def _say(error: FedloraError, code: int) -> int:
    print(f"fedlora: {error}", file=sys.stderr)
    return code
