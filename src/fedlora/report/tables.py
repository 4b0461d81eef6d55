# SPDX-License-Identifier: Apache-2.0
"""The one table: a row a method, mean and spread over seeds, steps, bytes both ways. As Markdown and CSV.

How it looks on a terminal stands in `fedlora.report.plain`.
"""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedlora.report.equal import equal_sentences
from fedlora.report.read import Group, RunData
from fedlora.report.task import MetricInfo, TaskInfo

OVER_EXAMPLES = (
    "95 % interval over the test examples, of scores of answers. It tells how much it matters which examples these "
    "are, and nothing of another training or of other clients."
)
"""What the ends of an interval mean that a single run tells."""


def columns(task: TaskInfo) -> list[str]:
    """The names of all columns, scores first: `global`, `personal` and `worst tenth` are of the headline metric."""
    more = [f"{part} {metric.name}" for metric in task.others for part in ("global", "personal")]
    scores = ["global", "personal", "worst tenth", *more]
    settings = ["ranks", "scale", "lr of A", "lr of B", "seeds", "rounds"]
    return ["method", *scores, "steps", "bytes up", "bytes down", "parameters up", *settings]


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean and its spread over seeds."""

    mean: float
    spread: float | None
    """Standard deviation; None with a single seed."""
    seeds: int = 1
    """How many seeds it is of."""
    ends: tuple[float, float] | None = None
    """Of a single run, the ends of the interval over its examples, where the run tells them."""


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
    task: TaskInfo
    whole: Mapping[str, Figure]
    """By metric, the global model's; empty where a method has none."""
    personal: Figure | None
    """The headline, mean over clients."""
    worst_tenth: Figure | None
    pooled: Mapping[str, Figure]
    """By metric but the headline, over all clients' test examples together."""
    bytes_up: float
    bytes_down: float
    parameters_up: float
    steps: float | None = None
    """Optimiser steps of all clients over all rounds, as they were taken; None: the folder is too old to tell."""
    rates: Mapping[str, float] | None = None
    """The learning rates of A and of B; None: likewise."""
    notes: tuple[str, ...] = ()
    """Sentences on this row that belong below the table."""


def rows(groups: Sequence[Group]) -> list[Row]:
    """A row a group."""
    notes = equal_sentences(groups)
    return [_row(group, notes.get(group.label, ())) for group in groups]


def _row(group: Group, notes: tuple[str, ...]) -> Row:
    runs = group.runs
    ranks = group.ranks
    return Row(
        label=group.label,
        ranks="-" if not ranks else str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]}-{ranks[-1]}",
        scale=float(runs[0].environment["scale"]),
        seeds=len(runs),
        rounds=max(len(run.rounds) for run in runs),
        unfinished=sum(not run.finished for run in runs),
        task=runs[0].task,
        whole=_by_metric(runs, "global", runs[0].task.metrics),
        personal=_over_seeds(runs, "personal", "mean", runs[0].task.headline.name),
        worst_tenth=_over_seeds(runs, "personal", "worst_tenth"),
        pooled=_by_metric(runs, "personal", runs[0].task.others),
        bytes_up=_mean_sum(runs, "bytes_up"),
        bytes_down=_mean_sum(runs, "bytes_down"),
        parameters_up=_mean_sum(runs, "parameters_up"),
        steps=_mean_sum(runs, "steps") if all("steps" in line for run in runs for line in run.rounds) else None,
        rates=runs[0].environment.get("learning_rates"),
        notes=notes,
    )


def _last(run: RunData, part: str, key: str) -> float | None:
    scored = run.last_scored()
    line = next((line for line in run.rounds if line["round"] == scored), None)
    return float(line[part][key]) if line and line[part] and key in line[part] else None


def _over_seeds(runs: Sequence[RunData], part: str, key: str, metric: str | None = None) -> Figure | None:
    """A number of a part over seeds; with the interval that a single run has for a metric."""
    ends = runs[0].intervals.get(part, {}).get(metric)
    return figure_of([value for run in runs if (value := _last(run, part, key)) is not None], ends)


def figure_of(values: Sequence[float], ends: Sequence[float] | None = None) -> Figure | None:
    """The mean and the spread of one number over runs; None without any.

    Args:
        values: of each run.
        ends: of the first run's interval over its examples, which is told where there is no other run.
    """
    if not values:
        return None
    if len(values) > 1:
        return Figure(statistics.fmean(values), statistics.stdev(values), len(values))
    return Figure(values[0], None, 1, (ends[0], ends[-1]) if ends else None)


def _by_metric(runs: Sequence[RunData], part: str, metrics: Sequence[MetricInfo]) -> dict[str, Figure]:
    """The metrics that the runs tell of a part, by name."""
    found = {metric.name: _over_seeds(runs, part, metric.name, metric.name) for metric in metrics}
    return {name: figure for name, figure in found.items() if figure is not None}


def _mean_sum(runs: Sequence[RunData], key: str) -> float:
    return statistics.fmean(sum(line[key] for line in run.rounds) for run in runs)


def cells(row: Row) -> list[str]:
    """A row in words, in the order of `columns`."""
    headline = row.task.headline
    return [
        row.label + (f" ({row.unfinished} unfinished)" if row.unfinished else ""),
        cell(row.whole.get(headline.name), headline),
        cell(row.personal, headline),
        cell(row.worst_tenth, headline),
        *(cell(part.get(metric.name), metric) for metric in row.task.others for part in (row.whole, row.pooled)),
        "-" if row.steps is None else f"{row.steps:.0f}",
        size(row.bytes_up),
        size(row.bytes_down),
        count(row.parameters_up),
        row.ranks,
        f"{row.scale:.3g}",
        *(f"{row.rates[side]:.3g}" if row.rates else "-" for side in ("A", "B")),
        str(row.seeds),
        str(row.rounds),
    ]


def notes(table: Sequence[Row]) -> str:
    """What the columns mean, and what a reader would ask about these rows; at least one row."""
    headline = table[0].task.headline
    unit = ", in percent" if headline.format == "percent" else ""
    several = max(row.seeds for row in table) > 1
    means = f"Mean and standard deviation over seeds{unit}. " if several else "Scores in percent. " if unit else ""
    meanings = (
        f"global: {headline.name} of the one global model on the whole test set; - where a method has none. "
        "personal: mean over clients of each client's model on its own test part. worst tenth: the mean of the worst "
        f"tenth of clients. {means}Steps: optimiser steps of all clients over all rounds, as they were taken; methods "
        "differ in compute. Bytes: encoded payloads of all clients over all rounds, heads included, evaluation not."
    )
    if any(map(has_ends, table)):
        meanings += f" In brackets: {OVER_EXAMPLES}"
    return " ".join([meanings, *dict.fromkeys(note for row in table for note in row.notes)])


def markdown(table: Sequence[Row]) -> str:
    """The table in Markdown; at least one row."""
    names = columns(table[0].task)
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells(row)) + " |" for row in table]
    return "\n".join([*lines, "", notes(table), ""])


def comma_separated(table: Sequence[Row]) -> str:
    """The table's numbers, unrounded, for other programmes."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    others = table[0].task.others
    scores = ["global", "personal", "worst_tenth"]
    scores += [f"{part}_{metric.name}" for metric in others for part in ("global", "personal")]
    pairs = [f"{name}_{part}" for name in scores for part in ("mean", "spread")]
    last = ["bytes_up", "bytes_down", "parameters_up", "steps", "lr_of_a", "lr_of_b"]
    writer.writerow(["method", "ranks", "scale", "seeds", "rounds", *pairs, *last])
    for row in table:
        numbers: list[object] = []
        figures = [row.whole.get(row.task.headline.name), row.personal, row.worst_tenth]
        figures += [part.get(metric.name) for metric in others for part in (row.whole, row.pooled)]
        for figure in figures:
            numbers += [figure.mean if figure else "", figure.spread if figure and figure.spread is not None else ""]
        start = [row.label, row.ranks, row.scale, row.seeds, row.rounds]
        rates = [row.rates[side] if row.rates else "" for side in ("A", "B")]
        steps = "" if row.steps is None else row.steps
        writer.writerow([*start, *numbers, row.bytes_up, row.bytes_down, row.parameters_up, steps, *rates])
    return text.getvalue()


def cell(figure: Figure | None, metric: MetricInfo) -> str:
    """A metric over seeds, 61.2 ± 1.3, or of one run with its interval over examples, 61.2 (55.0 to 67.1)."""
    if figure is None:
        return "-"
    spread = f" ± {metric.number(figure.spread)}" if figure.spread is not None else ""
    between = f" ({' to '.join(map(metric.number, figure.ends))})" if figure.ends else ""
    return f"{metric.number(figure.mean)}{spread}{between}"


def has_ends(row: Row) -> bool:
    """Whether some score of a row has an interval over examples."""
    figures = [*row.whole.values(), row.personal, *row.pooled.values()]
    return any(figure is not None and figure.ends is not None for figure in figures)


def size(number: float) -> str:
    """Bytes: 3.7 MB."""
    return _scaled(number, ("B", "kB", "MB", "GB", "TB"))


def count(number: float) -> str:
    """A number of things: 3.7M."""
    return _scaled(number, ("", "k", "M", "G", "T")).replace(" ", "")


def counted(number: int, thing: str) -> str:
    """A number with its noun: `1 run`, `15 runs`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _scaled(number: float, units: Sequence[str]) -> str:
    for unit in units[:-1]:
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == units[0] else f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} {units[-1]}"
