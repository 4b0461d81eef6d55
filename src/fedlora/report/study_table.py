# SPDX-License-Identifier: Apache-2.0
"""The tables of a study, from its `results.json`: as Markdown, as CSV, and as cells for its page."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedlora.report.tables import counted, size
from fedlora.report.task import MetricInfo, TaskInfo, read_task

Tree = Mapping[str, Any]
_WHOSE = {"global": "the one global model", "personal": "each client's model, mean over clients"}


@dataclass(frozen=True, slots=True)
class StudyTable:
    """One table in words."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    """The best score first, bounds last."""
    notes: tuple[str, ...]


def study_tables(results: Tree) -> list[StudyTable]:
    """The tables of a study.

    Args:
        results: the contents of its `results.json`.
    """
    task = read_task(results)
    return [_table(table, task) for table in results["tables"]]


def ordered(table: Tree, metric: MetricInfo) -> list[Tree]:
    """The rows of a table, the best score first, bounds last."""
    sign = -1.0 if metric.higher_is_better else 1.0
    return sorted(table["rows"], key=lambda row: (row["bound"], sign * row["mean"]))


def _table(table: Tree, task: TaskInfo) -> StudyTable:
    metric, personal = task.headline, table["scores"] == "personal"
    columns = ["", metric.name + (", %" if metric.format == "percent" else ""), "95 % interval"]
    if table["reference"]:
        columns += [f"minus {table['reference']}", "95 % interval", "p, Holm", "detectable", "verdict"]
    over_examples = any(row["over_examples"] for row in table["rows"])
    if over_examples:
        columns[2] = "95 % interval over test examples"
    if personal:
        columns += ["worst tenth", "clients at 10, 50, 90 %"]
    columns += ["at equal bytes", "at equal steps"]
    columns += [f"within {size(budget)}" for budget in table["budgets"]]
    columns += [f"bytes to {metric.words(target)}" for target in table["targets"]]
    columns += ["bytes up and down", "bytes up", "steps", *(other.name for other in task.others), "lr of A", "lr of B"]
    rows = [_row(row, table, task, personal=personal) for row in ordered(table, metric)]
    title = f"{table['setting']}: {_WHOSE[table['scores']]}" if table["setting"] else _WHOSE[table["scores"]]
    return StudyTable(title, (*columns, "draws"), tuple(map(tuple, rows)), tuple(_notes(table, metric)))


def _row(row: Tree, table: Tree, task: TaskInfo, *, personal: bool) -> list[str]:
    metric = task.headline
    ends = _ends(row, metric)
    cells = [row["variant"] + (" (bound)" if row["bound"] else ""), metric.number(row["mean"]), _between(ends, metric)]
    if table["reference"]:
        cells += _comparison(row, table, metric)
    if personal:
        quantiles = row["clients"] or {}
        cells += [_score(row["worst_tenth"], metric), ", ".join(map(metric.number, quantiles.values())) or "-"]
    cells += [_score(row["equal_bytes"], metric), _score(row["equal_steps"], metric)]
    cells += [_score(score, metric) for score in row["budgets"]]
    cells += [_reached(target, row["draws"]) for target in row["targets"]]
    cells += [size(row["bytes_up"] + row["bytes_down"]), size(row["bytes_up"]), f"{row['steps']:.0f}"]
    cells += [_other(row, other) for other in task.others]
    return [*cells, *(f"{row['learning_rates'][side]:.3g}" for side in ("A", "B")), str(row["draws"])]


def _ends(row: Tree, metric: MetricInfo) -> Sequence[float] | None:
    """The interval of a row's score: over draws, or, where there is one draw, over test examples."""
    if row["low"] is not None:
        return metric.within(row["low"], row["high"])
    return (row["over_examples"] or {}).get(metric.name)


def _between(ends: Sequence[float] | None, metric: MetricInfo) -> str:
    return "-" if ends is None else f"{metric.number(ends[0])} to {metric.number(ends[1])}"


def _other(row: Tree, metric: MetricInfo) -> str:
    """Another metric, with its interval over test examples in brackets where there is one."""
    if metric.name not in row["others"]:
        return "-"
    ends = (row["over_examples"] or {}).get(metric.name)
    return metric.number(row["others"][metric.name]) + (f" ({_between(ends, metric)})" if ends else "")


def _comparison(row: Tree, table: Tree, metric: MetricInfo) -> list[str]:
    told = row["comparison"]
    if told is None:
        return ["reference" if row["variant"] == table["reference"] else "-", "-", "-", "-", "-"]
    low, high = (_signed(told[end], metric) for end in ("low", "high"))
    return [
        _signed(told["difference"], metric),
        f"{low} to {high}",
        f"{told['corrected']:.2g}",
        metric.number(told["detectable"]),
        told["verdict"],
    ]


def _signed(value: float, metric: MetricInfo) -> str:
    text = metric.number(value)
    return text if text.startswith("-") else f"+{text}"


def _score(value: float | None, metric: MetricInfo) -> str:
    return "-" if value is None else metric.number(value)


def _reached(target: Tree, draws: int) -> str:
    if not target["reached"]:
        return "never"
    some = "" if target["reached"] == draws else f" ({target['reached']} of {draws})"
    return size(target["bytes"]) + some


def _notes(table: Tree, metric: MetricInfo) -> list[str]:
    notes = []
    if all(row["draws"] == 1 for row in table["rows"]):
        notes.append("One draw of the clients: a demonstration, which tells nothing of which method is better.")
    if any(row["over_examples"] for row in table["rows"]):
        notes.append("Intervals are over other test examples, for the same clients and the same training.")
    shares = table["variance"]
    if shares is not None:
        parts = {"draw": "partition draw", "method": "method", "interaction": "their interaction", "seed": "training"}
        told = [f"{words} {100 * shares[name]:.0f} %" for name, words in parts.items() if shares[name] is not None]
        seed = "" if shares["seed"] is not None else " (with the training seed's part, which was not measured)"
        notes.append(f"Of the variance of this score over {len(shares['variants'])} methods: {', '.join(told)}{seed}.")
    if table["reference"] and table["comparisons"]:
        notes.append(
            f"Differences are paired over draws; intervals are Student's t for each alone, verdicts are corrected for "
            f"{counted(table['comparisons'], 'comparison')} (Holm). Detectable: the true difference that would be "
            f"found in four of five such studies. A tie is no proof of equality."
        )
    spent = [
        f"{size(table['equal_bytes'])} up and down" if table["equal_bytes"] else "",
        f"{table['equal_steps']:.0f} optimiser steps of all clients" if table["equal_steps"] else "",
    ]
    notes.append(
        f"At equal bytes and at equal steps: the last score within what the cheapest method takes "
        f"({' and '.join(filter(None, spent))}); - where that pays for no evaluation."
    )
    return notes


def study_markdown(results: Tree) -> str:
    """All tables of a study as Markdown."""
    lines = []
    for table in study_tables(results):
        lines += [f"### {table.title[0].upper()}{table.title[1:]}", ""]
        lines += ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table.rows]
        lines += ["", *table.notes, ""]
    return "\n".join([*lines, *remarks(results), ""])


def remarks(results: Tree) -> list[str]:
    """What a reader should know of the study as a whole."""
    about, told = results["study"], []
    missing = len(results["missing"])
    if missing:
        told.append(
            f"{counted(missing, 'cell')} of this study failed or was not run yet; see `missing` in results.json."
        )
    edges = [choice for choice in results["choices"] if choice["at_an_edge"]]
    if results["choices"]:
        told.append(
            f"Learning rates were chosen on the validation parts of "
            f"{counted(len(about['tuning_draws']), 'other draw')}, from as many for each method."
        )
    if edges:
        names = ", ".join(f"{', '.join(filter(None, (each['variant'], each['setting'])))}" for each in edges)
        told.append(f"At an edge of the rates that were tried, so that a better one may lie outside: {names}.")
    if len(results["environments"]) > 1:
        told.append("The cells were run with different machines or versions; see `environments` in results.json.")
    return told


_FLAT = (
    "mean", "low", "high", "worst_tenth", "equal_bytes", "equal_steps", "bytes_up", "bytes_down", "steps", "draws",
)  # fmt: skip
_COMPARISON = ("difference", "low", "high", "p", "corrected", "detectable", "verdict")


def study_csv(results: Tree) -> str:
    """The numbers of all tables, unrounded, a row for each variant of each table."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    others = [metric["name"] for metric in results["task"]["metrics"][1:]]
    first = ["setting", "scores", "metric", "variant", "bound", *_FLAT, "lr_of_a", "lr_of_b"]
    writer.writerow([*first, *(f"difference_{name}" for name in _COMPARISON), *others])
    for table in results["tables"]:
        for row in table["rows"]:
            told = row["comparison"] or {}
            numbers: Sequence[Any] = [row[name] for name in _FLAT] + [row["learning_rates"][side] for side in "AB"]
            numbers = [*numbers, *(told.get(name) for name in _COMPARISON), *(row["others"].get(o) for o in others)]
            names = [table["setting"], table["scores"], table["metric"], row["variant"], row["bound"]]
            writer.writerow([*names, *("" if number is None else number for number in numbers)])
    return text.getvalue()
