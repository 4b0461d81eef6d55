# SPDX-License-Identifier: Apache-2.0
"""One page of one or many runs: self-contained HTML, and its table as Markdown and CSV."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from fedlora.errors import FedloraError, ReportError
from fedlora.report import figures, heat_maps
from fedlora.report.read import Group, RunData, group, read_runs
from fedlora.report.tables import cells, columns, comma_separated, markdown, notes, rows
from fedlora.report.text import shortened, visible, visible_lines

HTML, MARKDOWN, CSV = "report.html", "table.md", "table.csv"
_SOURCES = {"python": "data handed over in Python"}
_LONGEST_REASON, _LONGEST_NAME = 300, 80
"""Characters of what an error of another library says, and of a client's name."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A figure with its words."""

    title: str
    caption: str
    svg: str


def write_report(paths: Sequence[Path], folder: Path) -> Path:
    """Read runs and write `report.html`, `table.md` and `table.csv`; returns the page.

    Raises:
        RunFolderError: a path holds no run.
        ReportError: the page cannot be drawn, or its folder cannot be written.
    """
    try:
        runs = read_runs(paths)
        table = rows(group(runs))
        texts = {HTML: page(runs, folder), MARKDOWN: markdown(table), CSV: comma_separated(table)}
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            _write(folder / name, text)
    except FedloraError:
        raise
    except Exception as error:  # whatever it is, it must not look like a failure of the run
        reason = shortened(visible(f"{type(error).__name__}: {error}"), _LONGEST_REASON)
        raise ReportError(f"The page in {folder} could not be made ({reason}).") from error
    return folder / HTML


def _write(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.part")
    try:
        beside.write_text(text, encoding="utf-8", newline="\n")
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def page(runs: Sequence[RunData], folder: Path) -> str:
    """The HTML page, for a folder from which its commands are run."""
    groups = group(runs)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fedlora.report", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    first = runs[0]
    return environment.get_template("page.html.j2").render(
        title=_title(groups),
        about=_about(runs),
        notices=_notices(runs),
        columns=columns(first.task),
        rows=[cells(row) for row in rows(groups)],
        notes=notes(first.task),
        figures=draw(groups),
        commands=[_command(run, folder) for run in runs],
        machine=_machine(first),
        configs=[{"name": _name(run), "text": _config_text(run)} for run in runs],
    )


def draw(groups: Sequence[Group]) -> list[Drawn]:
    """All figures that these runs have something to show in."""
    first = groups[0].runs[0]
    name, chance = first.task.headline.name, ""
    if first.task.chance is not None:
        chance = f" Dotted line: chance, {first.task.headline.words(first.task.chance)}."
    drawn = [
        _drawn(
            f"Global {name} by round",
            f"The one global model on the whole test set. Band: lowest to highest seed.{chance}",
            figures.score_curves(groups, "global", name, "round", f"global {name} by round"),
        ),
        _drawn(
            f"Personal {name} by round",
            f"Mean over clients of each client's own model on its own test part.{chance}",
            figures.score_curves(groups, "personal", "mean", "round", f"personal {name} by round"),
        ),
        _drawn(
            f"Global {name} by bytes sent",
            f"What a byte from clients to server buys. Logarithmic.{chance}",
            figures.score_curves(groups, "global", name, "bytes_up", f"global {name} by bytes"),
        ),
        _drawn(
            f"Personal {name} by bytes sent",
            f"The same for clients' own models. Logarithmic.{chance}",
            figures.score_curves(groups, "personal", "mean", "bytes_up", f"personal {name} by bytes"),
        ),
        _drawn(
            "Every client's own score",
            f"A dot a client (and seed) after the last scored round; of more than 400 clients, some.{chance}",
            figures.client_scores(groups, f"{name} of every client"),
        ),
        _drawn(
            "Bytes by direction",
            "All clients, all rounds, mean over seeds.",
            figures.traffic(groups, "bytes by direction"),
        ),
        _drawn(
            "Who owns which labels",
            f"Training examples, seed {first.seed}.",
            None if first.deployed else heat_maps.label_map(first, "labels of the clients"),
        ),
    ]
    for row in groups:
        run = row.runs[0]
        for side, letter in (("output", "B"), ("input", "A")):
            drawn.append(
                _drawn(
                    f"{row.label}: chosen slots of {letter}",
                    f"Mean over clients, last round that trained {letter}, seed {run.seed}.",
                    heat_maps.slot_map(run, side, f"chosen slots of {letter} by layer and map"),
                )
            )
            drawn.append(
                _drawn(
                    f"{row.label}: slots in common, {letter}",
                    "Jaccard similarity of every two clients' choices in that round.",
                    heat_maps.overlap_map(run, side, f"overlap of chosen slots of {letter}"),
                )
            )
    return [figure for figure in drawn if figure.svg]


def _drawn(title: str, caption: str, svg: str | None) -> Drawn:
    return Drawn(title, caption, svg or "")


def _title(groups: Sequence[Group]) -> str:
    if len(groups) == 1:
        return f"fedlora: {groups[0].label}"
    return f"fedlora: {len(groups)} methods compared"


def _about(runs: Sequence[RunData]) -> str:
    run = runs[0]
    split, data = run.config["split"], run.config["data"]
    labels = f"{len(run.split['labels'])} labels, " if run.split["labels"] else ""
    sizes = sorted({line["client"]: line["examples"] for line in run.clients}.values())
    if run.deployed:
        name, dealt = "Data of the sites' own", "each at its owner"
    else:
        skew = f" (alpha {split['alpha']:g})" if split["kind"] == "dirichlet" else ""
        name = Path(str(data["path"])).name if "path" in data else _SOURCES.get(data["source"], data["source"])
        dealt = f"{split['kind']} split{skew}"
    if labels and not run.deployed:
        sizes = sorted(sum(counts["labels"]) for counts in run.split["clients"].values())
    return (
        f"{name}, {labels}{len(sizes)} clients with {sizes[0]} to {sizes[-1]} training "
        f"examples, {dealt}, base {run.environment['base']}, head {run.config['adapter']['head']}, "
        f"{len(runs)} run(s)."
    )


def _notices(runs: Sequence[RunData]) -> list[str]:
    notices = []
    if any(run.config["data"]["source"] == "generated" and not run.deployed for run in runs):
        notices.append("The data are generated: these numbers say nothing about real text.")
    unfinished = [_name(run) for run in runs if not run.finished]
    if unfinished:
        notices.append(f"Not finished: {', '.join(unfinished)}.")
    left_out = [shortened(client, _LONGEST_NAME) for client in runs[0].split["left_out_clients"]]
    if left_out:
        notices.append(f"Left out, without any training example: {', '.join(left_out)}.")
    return notices


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
        f"{run.environment['threads']} threads"
    )


def _config_text(run: RunData) -> str:
    return visible_lines((run.folder / "config.toml").read_text(encoding="utf-8"))
