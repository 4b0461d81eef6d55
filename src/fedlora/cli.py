# SPDX-License-Identifier: Apache-2.0
"""The command line. Exit 0: done; 2: the input was wrong, one sentence on stderr; 1: anything else."""

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedlora.errors import FedloraError, RunFolderError, UserError

if TYPE_CHECKING:
    from fedlora.federation.stages.base import Stage
    from fedlora.methods.base import Method

app = typer.Typer(
    help="Federated fine-tuning of language models with low-rank adapters.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


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


_SET = "Change one key; may be repeated. Paths are seen from here, those in the file from the file's folder."


@app.command()
def run(
    config: Annotated[Path | None, typer.Argument(help="A TOML file; without one, the defaults.")] = None,
    override: Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help=_SET)] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/NAME by default.")] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the run that the folder holds; with more rounds (--set run.rounds=N) a finished one, too.",
        ),
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Clients trained at a time, one core each; all cores by default.")
    ] = None,
) -> None:
    """Run a federation on this machine and write its folder."""
    from fedlora.app.config import read_config
    from fedlora.app.progress import quiet_libraries, run_with_progress

    if config is None and resume and out and (out / "config.toml").is_file():
        config = out / "config.toml"
    settings = read_config(config, override or [])
    quiet_libraries()
    with _interruptible():
        run_with_progress(settings, out or Path("runs") / settings.run.name, resume, workers)


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
    examples: Annotated[int, typer.Option(min=1, help="Worlds to try a law on.")] = 25,
) -> None:
    """Hold a method or a stage against the law book: law, held or broken, smallest counter-example."""
    from fedlora.app.describe import print_verdicts
    from fedlora.app.method import find_subject
    from fedlora.methods import BUILT_IN

    kinds = [find_subject(name)] if name else list(BUILT_IN.values())
    broken = [kind.name for kind in kinds if not print_verdicts(_with_defaults(kind), examples)]
    if broken:
        raise FedloraError(f"broken laws: {', '.join(broken)}")


def _with_defaults(kind: "type[Method] | type[Stage]") -> "Method | Stage":
    try:
        return kind()
    except TypeError as error:
        raise UserError(f"{kind.__name__} needs arguments: give its fields defaults.") from error


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
    shutil.copytree(source, target)
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
        f"Next: fedlora run {out}, or fedlora compare {out} --methods lora-a2,fedit,local"
    )


@app.command()
def compare(
    config: Annotated[Path, typer.Argument(help="A TOML file.")],
    methods: Annotated[str, typer.Option(help="Names, with commas between them.")],
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from run.seed on.")] = 1,
    override: Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help=_SET)] = None,
    out: Annotated[Path | None, typer.Option(help="Where the runs go; runs/NAME-compared by default.")] = None,
    rates: Annotated[str, typer.Option(help="Learning rates to try for each method, with commas.")] = "",
    rate_rounds: Annotated[int, typer.Option(min=1, help="Rounds of such a trial.")] = 4,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Clients trained at a time, one core each; all cores by default.")
    ] = None,
) -> None:
    """Run several methods on the same clients and tell them side by side; goes on where it was stopped.

    With --rates every method first tries each rate for a few rounds, and takes the one that scores best on the
    validation part (split.validation).
    """
    from fedlora.app.compare import entries, trials
    from fedlora.app.config import read_config
    from fedlora.app.progress import compare_with_progress, quiet_libraries, try_rates

    settings = read_config(config, override or [])
    folder = out or Path("runs") / f"{settings.run.name}-compared"
    names = _words(methods)
    if not names:
        raise UserError("--methods names no method: give some, such as lora-a2,fedit,local.")
    runs = entries(settings, names, seeds, folder)
    quiet_libraries()
    with _interruptible("the same command goes on"):
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


@app.command()
def site(
    config: Annotated[Path, typer.Argument(help="The site's own TOML file; see docs/deploy.md.")],
) -> None:
    """Be a site of a deployed federation: hold base, data and private memory, and answer until stopped."""
    from fedlora.app.progress import quiet_libraries
    from fedlora.deploy.site import run_site

    quiet_libraries()
    with _interruptible("what the site keeps is on its disk"):
        run_site(config, lambda line: print(line, flush=True))


@contextmanager
def _interruptible(how: str = "go on with --resume") -> Iterator[None]:
    """Ctrl-C ends in a sentence."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"fedlora: stopped; finished rounds are kept, {how}.", err=True)
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


if __name__ == "__main__":
    main()
