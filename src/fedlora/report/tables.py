# SPDX-License-Identifier: Apache-2.0
"""The one table: a row a method, mean and spread over seeds, bytes both ways. As text, Markdown and CSV."""

import csv
import io
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedlora.report.read import Group, RunData

COLUMNS = (
    "method",
    "ranks",
    "scale",
    "seeds",
    "rounds",
    "global",
    "personal",
    "worst tenth",
    "bytes up",
    "bytes down",
    "parameters up",
)
SHORT = ("method", "ranks", "scale", "global", "personal", "worst tenth", "bytes up", "bytes down")
"""The columns that fit on a terminal."""
NOTES = (
    "global: accuracy of the one global model on the whole test set; - where a method has none. "
    "personal: mean over clients of each client's model on its own test part. worst tenth: the mean of the lowest "
    "tenth of clients. Mean and standard deviation over seeds, in percent. Bytes: encoded payloads of all clients "
    "over all rounds, heads included, evaluation not."
)


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean and its spread over seeds."""

    mean: float
    spread: float | None
    """Standard deviation; None with a single seed."""


@dataclass(frozen=True, slots=True)
class Row:
    """One method's numbers."""

    label: str
    ranks: str
    scale: float
    """s in W0 + s B A."""
    seeds: int
    rounds: int
    unfinished: int
    global_accuracy: Figure | None
    personal: Figure | None
    worst_tenth: Figure | None
    bytes_up: float
    bytes_down: float
    parameters_up: float


def rows(groups: Sequence[Group]) -> list[Row]:
    """A row a group."""
    return [_row(own) for own in groups]


def _row(group: Group) -> Row:
    runs = group.runs
    ranks = sorted({int(line["rank"]) for run in runs for line in run.clients})
    dense = runs[0].environment["kind"] == "dense"  # full fine-tuning has no rank
    return Row(
        label=group.label,
        ranks="-" if dense else str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]}-{ranks[-1]}",
        scale=float(runs[0].environment["scale"]),
        seeds=len(runs),
        rounds=max(len(run.rounds) for run in runs),
        unfinished=sum(not run.finished for run in runs),
        global_accuracy=_over_seeds(runs, lambda run: _last(run, "global", "accuracy")),
        personal=_over_seeds(runs, lambda run: _last(run, "personal", "mean")),
        worst_tenth=_over_seeds(runs, lambda run: _last(run, "personal", "worst_tenth")),
        bytes_up=_mean_sum(runs, "bytes_up"),
        bytes_down=_mean_sum(runs, "bytes_down"),
        parameters_up=_mean_sum(runs, "parameters_up"),
    )


def _last(run: RunData, part: str, key: str) -> float | None:
    scored = run.last_scored()
    line = next((line for line in run.rounds if line["round"] == scored), None)
    return float(line[part][key]) if line and line[part] else None


def _over_seeds(runs: Sequence[RunData], value: Callable[[RunData], float | None]) -> Figure | None:
    own = [number for run in runs if (number := value(run)) is not None]
    if not own:
        return None
    return Figure(statistics.fmean(own), statistics.stdev(own) if len(own) > 1 else None)


def _mean_sum(runs: Sequence[RunData], key: str) -> float:
    return statistics.fmean(sum(line[key] for line in run.rounds) for run in runs)


def cells(row: Row) -> list[str]:
    """A row in words."""
    return [
        row.label + (f" ({row.unfinished} unfinished)" if row.unfinished else ""),
        row.ranks,
        f"{row.scale:.3g}",
        str(row.seeds),
        str(row.rounds),
        percent(row.global_accuracy),
        percent(row.personal),
        percent(row.worst_tenth),
        size(row.bytes_up),
        size(row.bytes_down),
        count(row.parameters_up),
    ]


def short_cells(row: Row) -> list[str]:
    """A row in the words of the columns that fit on a terminal."""
    own = dict(zip(COLUMNS, cells(row), strict=True))
    return [own[column] for column in SHORT]


def markdown(table: Sequence[Row]) -> str:
    """The table in Markdown."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells(row)) + " |" for row in table]
    return "\n".join([*lines, "", NOTES, ""])


def comma_separated(table: Sequence[Row]) -> str:
    """The table's numbers, unrounded, for other programmes."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    scores = ("global", "personal", "worst_tenth")
    pairs = [f"{name}_{part}" for name in scores for part in ("mean", "spread")]
    writer.writerow(["method", "ranks", "scale", "seeds", "rounds", *pairs, "bytes_up", "bytes_down", "parameters_up"])
    for row in table:
        numbers: list[object] = []
        for own in (row.global_accuracy, row.personal, row.worst_tenth):
            numbers += [own.mean if own else "", own.spread if own and own.spread is not None else ""]
        start = [row.label, row.ranks, row.scale, row.seeds, row.rounds]
        writer.writerow([*start, *numbers, row.bytes_up, row.bytes_down, row.parameters_up])
    return text.getvalue()


def percent(figure: Figure | None) -> str:
    """An accuracy: 61.2 ± 1.3."""
    if figure is None:
        return "-"
    spread = f" ± {100 * figure.spread:.1f}" if figure.spread is not None else ""
    return f"{100 * figure.mean:.1f}{spread}"


def size(number: float) -> str:
    """Bytes: 3.7 MB."""
    return _scaled(number, ("B", "kB", "MB", "GB", "TB"))


def count(number: float) -> str:
    """A number of things: 3.7M."""
    return _scaled(number, ("", "k", "M", "G", "T")).replace(" ", "")


def _scaled(number: float, units: Sequence[str]) -> str:
    for unit in units[:-1]:
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == units[0] else f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} {units[-1]}"
