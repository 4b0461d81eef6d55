# SPDX-License-Identifier: Apache-2.0
"""The page's table: scores first, then costs; what all rows have in common stands above it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedlora.report import key
from fedlora.report.intervals import NAME, half_width
from fedlora.report.key import Key
from fedlora.report.tables import OVER_EXAMPLES, Figure, Row, cells, columns, has_ends
from fedlora.report.task import MetricInfo

_METHOD = "method"
_COSTS = ("steps", "bytes", "parameters")
"""How the names of columns begin that differ by nature, and are told even where they are equal."""
_NONE = "-"


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell, with its column's name for narrow screens, where every cell stands by itself."""

    column: str
    text: str
    interval: str = ""
    """Of a mean over seeds, or of one run over its examples."""
    is_score: bool = False


@dataclass(frozen=True, slots=True)
class TableRow:
    """A method: its name with the colour that it has in the figures, and its cells."""

    key: Key
    cells: Sequence[Cell]


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """The table and what stands around it."""

    columns: Sequence[str]
    """Without the method's."""
    rows: Sequence[TableRow]
    constants: str
    """A sentence with what all rows have in common; empty if nothing."""
    notes: Sequence[str]
    """What the columns mean."""


def score_table(rows: Sequence[Row]) -> ScoreTable:
    """The table of at least one row. Columns without a value in any row are left out."""
    task = rows[0].task
    texts = [dict(zip(columns(task), cells(row), strict=True)) for row in rows]
    scores = [_scores(row) for row in rows]
    shown = [name for name in scores[0] if any(found[name] for found in scores)]
    rest = [name for name in columns(task) if name not in scores[0] and name != _METHOD]
    costs = [name for name in rest if name.startswith(_COSTS) and any(text[name] != _NONE for text in texts)]
    setup = [name for name in rest if not name.startswith(_COSTS)]
    differ = [name for name in setup if len({text[name] for text in texts}) > 1]
    named = [*shown, *costs, *differ]
    metrics = {name: _metric(name, row) for row in rows[:1] for name in shown}
    return ScoreTable(
        columns=named,
        rows=[
            TableRow(
                key.of_group(number, text[_METHOD]),
                [_cell(name, text, found, metrics) for name in named],
            )
            for number, (text, found) in enumerate(zip(texts, scores, strict=True))
        ],
        constants=_constants(texts, [name for name in setup if name not in differ]),
        notes=_notes(rows, named),
    )


def _scores(row: Row) -> dict[str, Figure | None]:
    """The scores of a row, by the names that `columns` has for them."""
    found = {"global": row.whole.get(row.task.headline.name), "personal": row.personal, "worst tenth": row.worst_tenth}
    for metric in row.task.others:
        found |= {
            f"global {metric.name}": row.whole.get(metric.name),
            f"personal {metric.name}": row.pooled.get(metric.name),
        }
    return found


def _metric(column: str, row: Row) -> MetricInfo:
    name = column.partition(" ")[2]
    return next((metric for metric in row.task.others if metric.name == name), row.task.headline)


def _cell(
    name: str, text: Mapping[str, str], scores: Mapping[str, Figure | None], metrics: Mapping[str, MetricInfo]
) -> Cell:
    if name not in scores:
        return Cell(name, text[name])
    figure, metric = scores[name], metrics[name]
    if figure is None:
        return Cell(name, _NONE, is_score=True)
    return Cell(name, metric.number(figure.mean), interval(figure, metric), is_score=True)


def interval(figure: Figure, metric: MetricInfo) -> str:
    """The ends of the interval of a mean over seeds, or of one run over its examples; empty where there is neither."""
    if figure.ends is not None:
        return " to ".join(map(metric.number, figure.ends))
    if figure.spread is None:
        return ""
    half = half_width(figure.spread, figure.seeds)
    low, high = metric.within(figure.mean - half, figure.mean + half)
    return f"{metric.number(low)} to {metric.number(high)}"


def _constants(texts: Sequence[Mapping[str, str]], names: Sequence[str]) -> str:
    """What is equal in all rows: rank 2, scale 8, 3 seeds, 18 rounds."""
    told = [_constant(name, texts[0][name]) for name in names if texts[0][name] != _NONE]
    if not told:
        return ""
    start = "All rows: " if len(texts) > 1 else ""
    sentence = ", ".join(told)
    return f"{start}{sentence}." if start else f"{sentence[0].upper()}{sentence[1:]}."


def _constant(name: str, value: str) -> str:
    """A name and its value as words: names of numbers of things come after them."""
    if name == "ranks":
        return f"ranks {value}" if "-" in value else f"rank {value}"
    if name.endswith("s"):
        return f"{value} {name if value != '1' else name[:-1]}"
    return f"{name} {value}"


def _has_unit(metric: MetricInfo) -> bool:
    """Whether a metric's title at an axis says more than its name: `loss a token, nats`."""
    return metric.format != "percent" and metric.title.replace(" ", "_") != metric.name


def _notes(rows: Sequence[Row], shown: Sequence[str]) -> list[str]:
    headline = rows[0].task.headline
    meaning = {
        "global": f"global: {headline.name} of the one global model on the whole test set",
        "personal": "personal: mean over clients of each client's model on its own test part",
        "worst tenth": "worst tenth: the mean of the worst tenth of the clients",
    }
    without = [row.label for row in rows if not row.whole]
    told = [f"{words}." for name, words in meaning.items() if name in shown]
    if without:
        told.append(f"No global model: {', '.join(without)}.")
    others = [
        metric for metric in rows[0].task.others if {f"global {metric.name}", f"personal {metric.name}"} & set(shown)
    ]
    if any(f"personal {metric.name}" in shown for metric in others):
        names = ", ".join(f"personal {metric.name}" for metric in others if f"personal {metric.name}" in shown)
        told.append(f"{names}: of the clients' models, over all their test examples together.")
    for higher, word in ((True, "Higher"), (False, "Lower")):
        names = ", ".join(metric.name for metric in [headline, *others] if metric.higher_is_better is higher)
        if names:
            told.append(f"{word} is better: {names}.")
    units = [f"{metric.name}: {metric.title}" for metric in [headline, *others] if _has_unit(metric)]
    if units:
        told.append(f"{'; '.join(units)}.")
    if percents := [metric.name for metric in [headline, *others] if metric.format == "percent"]:
        told.append(f"In percent: {', '.join(percents)}.")
    if any(row.seeds > 1 for row in rows):
        told.append(f"Below a mean: {NAME}. It tells how much the seed matters, and nothing of other data.")
    if any(map(has_ends, rows)):
        told.append(f"Below a score: {OVER_EXAMPLES}")
    if "steps" in shown:
        told.append("Steps: optimiser steps of all clients over all rounds; methods differ in compute.")
    told.append("Bytes: encoded payloads of all clients over all rounds, heads included, evaluation not.")
    told += dict.fromkeys(note for row in rows for note in row.notes)
    return told
