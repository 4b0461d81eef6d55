# SPDX-License-Identifier: Apache-2.0
"""The table of natural clients: every metric's mean over clients, over examples, and over the worst; unseen clients."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedlora.report import key
from fedlora.report.read import Group
from fedlora.report.scores import Cell, ScoreTable, TableRow, interval
from fedlora.report.tables import OVER_EXAMPLES, Figure, figure_of
from fedlora.report.task import MetricInfo

_PARTS = {"over_clients": "", "unseen_clients": "unseen: "}
"""Which lines of a round tell spreads, and how their columns begin."""
_KINDS = {
    "mean": "mean over clients",
    "weighted_mean": "mean over examples",
    "worst_tenth": "worst tenth of clients",
    "count": "clients",
}
_COUNTS = [f"{start}{_KINDS['count']}" for start in _PARTS.values()]
_NONE = "-"


def client_table(groups: Sequence[Group]) -> ScoreTable | None:
    """A row for each method and metric; None where no run has natural clients."""
    rows = [
        (number, group.label, metric, found)
        for number, group in enumerate(groups)
        for metric in group.runs[0].task.metrics
        if any((found := _figures(group, metric)).values())
    ]
    if not rows:
        return None
    shown = [column for column in rows[0][3] if any(found[column] for _, _, _, found in rows)]
    return ScoreTable(
        columns=["metric", *shown],
        rows=[
            TableRow(
                key.of_group(number, label),
                [Cell("metric", metric.name), *(_cell(column, found[column], metric) for column in shown)],
            )
            for number, label, metric, found in rows
        ],
        constants="",
        notes=_notes(shown) + ([f"Below a score: {OVER_EXAMPLES}"] if _have_ends(rows) else []),
    )


def _have_ends(rows: Sequence[tuple[int, str, MetricInfo, Mapping[str, Figure | None]]]) -> bool:
    return any(figure is not None and figure.ends is not None for *_, found in rows for figure in found.values())


def client_markdown(groups: Sequence[Group]) -> str:
    """The same table in Markdown; empty where there is none."""
    table = client_table(groups)
    if table is None:
        return ""
    lines = ["| " + " | ".join(["method", *table.columns]) + " |", "|" + "---|" * (1 + len(table.columns))]
    for row in table.rows:
        texts = [
            row.key.name,
            *(f"{cell.text} ({cell.interval})" if cell.interval else cell.text for cell in row.cells),
        ]
        lines.append("| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |")
    return "\n".join(["", *lines, "", " ".join(table.notes), ""])


def _figures(group: Group, metric: MetricInfo) -> dict[str, Figure | None]:
    """Column -> a metric over the seeds of a group, of the last scored rounds."""
    lines = [line for run in group.runs for line in run.rounds if line["round"] == run.last_scored()]
    return {
        f"{start}{words}": figure_of(
            [value for line in lines if (value := _value(line, part, metric, kind)) is not None],
            group.runs[0].intervals.get(part, {}).get(metric.name, {}).get(kind),
        )
        for part, start in _PARTS.items()
        for kind, words in _KINDS.items()
    }


def _value(line: Mapping[str, Any], part: str, metric: MetricInfo, kind: str) -> float | None:
    told = line.get(part, {}).get(metric.name)
    return None if told is None else float(told[kind])


def _cell(column: str, figure: Figure | None, metric: MetricInfo) -> Cell:
    if figure is None:
        return Cell(column, _NONE, is_score=True)
    if column in _COUNTS:
        return Cell(column, f"{figure.mean:.4g}")
    return Cell(column, metric.number(figure.mean), interval(figure, metric), is_score=True)


def _notes(shown: Sequence[str]) -> list[str]:
    told = [
        "mean over clients: every client counts the same. mean over examples: over all their test examples together.",
        "worst tenth of clients: the mean of the worst ceil(K / 10), metric by metric.",
    ]
    if any(column.startswith(_PARTS["unseen_clients"]) for column in shown):
        told.append(
            "unseen: clients that never trained, with the global model; where clients keep a part to themselves, with "
            "the shared part, and the rest as every client begins."
        )
    return told
