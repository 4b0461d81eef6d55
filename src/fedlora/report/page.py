# SPDX-License-Identifier: Apache-2.0
"""One page of one or many runs: self-contained HTML, and its table as Markdown and CSV."""

import os
from collections.abc import Sequence
from pathlib import Path

import jinja2

from fedlora.errors import FedloraError, ReportError
from fedlora.report.gallery import gallery
from fedlora.report.over_clients import client_markdown, client_table
from fedlora.report.read import Group, RunData, group, read_runs
from fedlora.report.remarks import remarks
from fedlora.report.scores import score_table
from fedlora.report.tables import comma_separated, counted, markdown, rows
from fedlora.report.text import shortened, visible, visible_lines

HTML, MARKDOWN, CSV = "report.html", "table.md", "table.csv"
_SOURCES = {"python": "data handed over in Python"}
_LONGEST_REASON = 300
"""Characters of what an error of another library says."""


def write_report(paths: Sequence[Path], folder: Path, reload: int | None = None) -> Path:
    """Read runs and write `report.html`, `table.md` and `table.csv`; returns the page.

    Args:
        paths: run folders, or folders above them.
        folder: where the page goes.
        reload: seconds after which an open page loads itself anew: of runs under way. None: never.

    Raises:
        RunFolderError: a path holds no run.
        ReportError: the page cannot be drawn, or its folder cannot be written.
    """
    try:
        runs = read_runs(paths)
        table = rows(group(runs))
        texts = {
            HTML: page(runs, folder, reload),
            MARKDOWN: markdown(table) + client_markdown(group(runs)),
            CSV: comma_separated(table),
        }
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_text(folder / name, text)
    except FedloraError:
        raise
    except Exception as error:  # whatever it is, it must not look like a failure of the run
        raise _no_page(folder, error) from error
    return folder / HTML


def write_waiting(folder: Path, title: str, reload: int) -> Path:
    """Write a page that says that no round is finished yet; returns it.

    Args:
        folder: the run's, which is there.
        title: the page's.
        reload: seconds after which an open page loads itself anew.

    Raises:
        ReportError: the folder cannot be written.
    """
    try:
        text = environment().get_template("waiting.html.j2").render(title=visible(title), reload=reload)
        write_text(folder / HTML, text)
    except Exception as error:
        raise _no_page(folder, error) from error
    return folder / HTML


def _no_page(folder: Path, error: Exception) -> ReportError:
    reason = shortened(visible(f"{type(error).__name__}: {error}"), _LONGEST_REASON)
    return ReportError(f"The page in {folder} could not be made ({reason}).")


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old one or the new one."""
    beside = path.with_name(f".{path.name}.part")
    try:
        beside.write_text(text, encoding="utf-8", newline="\n")
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def page(runs: Sequence[RunData], folder: Path, reload: int | None = None) -> str:
    """The HTML page, for a folder from which its commands are run; `reload` as for `write_report`."""
    groups = group(runs)
    table = rows(groups)
    first = runs[0]
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            title=_title(groups),
            about=_about(runs),
            progress=_unfinished(runs) if reload is None else _under_way(runs),
            reload=reload,
            remarks=remarks(runs, groups),
            table=score_table(table),
            clients=client_table(groups),
            figures=gallery(groups),
            commands=[_command(run, folder) for run in runs],
            machine=_machine(first),
            configs=[{"name": _name(run), "text": _config_text(run)} for run in runs],
        )
    )


def environment() -> jinja2.Environment:
    """Where the templates of pages are found; what they show is escaped."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("fedlora.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )


def _title(groups: Sequence[Group]) -> str:
    if len(groups) == 1:
        return f"fedlora: {groups[0].label}"
    return f"fedlora: {len(groups)} methods compared"


def _about(runs: Sequence[RunData]) -> str:
    run = runs[0]
    split, data = run.config["split"], run.config["data"]
    word, names = run.labels
    labels = f"{counted(len(names), word)}, " if names else ""
    sizes = sorted({line["client"]: line["examples"] for line in run.clients}.values())
    if run.deployed:
        name, dealt = "the sites' own", "each at its owner"
    else:
        skew = f" (alpha {split['alpha']:g})" if split["kind"] == "dirichlet" else ""
        name = Path(str(data["path"])).name if "path" in data else _SOURCES.get(data["source"], data["source"])
        dealt = f"{split['kind']} split{skew}"
    if not run.deployed:
        sizes = sorted(sum(counts["labels"]) for counts in run.split["clients"].values())
    clients = counted(len(sizes), "client")
    return (
        f"Data: {name}, {labels}{clients} with {sizes[0]} to {sizes[-1]} training examples, {dealt}. "
        f"Base: {run.environment['base']}." + (f" Head: {run.config['adapter']['head']}." if run.has_head else "")
    )


def _unfinished(runs: Sequence[RunData]) -> str:
    """Which runs did not come to their end, of runs that nobody is at work on."""
    left = [_name(run) for run in runs if not run.finished]
    return f"Not finished: {', '.join(left)}." if left else ""


def _under_way(runs: Sequence[RunData]) -> str:
    """How far the runs have come that are under way."""
    left = [run for run in runs if not run.finished]
    told = [f"{_name(run)}, {len(run.rounds)} of {run.config['run']['rounds']} rounds" for run in left]
    return f"Under way: {'; '.join(told)}. This page reloads itself." if told else ""


def _name(run: RunData) -> str:
    return f"{run.label}, seed {run.seed}"


def _command(run: RunData, folder: Path) -> str:
    if run.deployed:
        return "see docs/deploy.md: the data are at the sites"
    handed = [run.config.get(section, {}).get(key) for section, key in (("data", "source"), ("model", "base"))]
    if "python" in handed:
        return f"{run.method}, seed {run.seed}: run the Python script that handed over the data or the base"
    config = Path(os.path.relpath(run.folder, folder)) / "config.toml"
    return visible(f"fedlora run {config.as_posix()} --out again/{run.method}-seed-{run.seed}")


def _machine(run: RunData) -> str:
    packages = run.environment["packages"]
    return (
        f"{run.environment['platform']}, Python {run.environment['python']}, torch {packages['torch']}, "
        f"{run.environment['threads']} thread{'s' if run.environment['threads'] != 1 else ''}"
    )


def _config_text(run: RunData) -> str:
    return visible_lines((run.folder / "config.toml").read_text(encoding="utf-8"))
