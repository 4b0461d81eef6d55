# SPDX-License-Identifier: Apache-2.0
"""The page of a study, and its tables as files, from its `results.json`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedlora.errors import ReportError
from fedlora.report.page import CSV, HTML, MARKDOWN, environment, write_text
from fedlora.report.study_table import ordered, remarks, study_csv, study_markdown, study_tables
from fedlora.report.svg import GREY, PALETTE, new_figure, to_svg
from fedlora.report.task import MetricInfo, read_task
from fedlora.report.text import shortened, visible, visible_tree

_LONGEST = 300


def write_study(results: Mapping[str, Any], folder: Path) -> Path:
    """Write `report.html`, `table.md` and `table.csv` of a study; returns the page.

    Args:
        results: the contents of its `results.json`.
        folder: where they go.

    Raises:
        ReportError: the page cannot be drawn, or its folder cannot be written.
    """
    try:
        shown = visible_tree(results)
        texts = {HTML: study_page(shown), MARKDOWN: study_markdown(shown), CSV: study_csv(shown)}
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_text(folder / name, text)
    except Exception as error:
        reason = shortened(visible(f"{type(error).__name__}: {error}"), _LONGEST)
        raise ReportError(f"The page in {folder} could not be made ({reason}).") from error
    return folder / HTML


def study_page(results: Mapping[str, Any]) -> str:
    """The HTML page."""
    metric = read_task(results).headline
    figures = [_differences(table, metric, number) for number, table in enumerate(results["tables"])]
    about = results["study"]
    return (
        environment()
        .get_template("study.html.j2")
        .render(
            title=f"fedlora study: {about['name']}" + (f", {about['size']}" if about["size"] else ""),
            description=about["description"],
            remarks=remarks(results),
            tables=study_tables(results),
            figures=figures,
            reload=None,
        )
    )


def _differences(table: Mapping[str, Any], metric: MetricInfo, number: int) -> str | None:
    """The compared variants with their differences; None where nothing is compared."""
    rows = [row for row in ordered(table, metric) if row["comparison"]]
    if not rows:
        return None
    figure, (axes,) = new_figure(6.4, 0.8 + 0.26 * len(rows))
    axes.axvline(0.0, color=GREY, linewidth=1.0)
    tips = {}
    for place, row in enumerate(reversed(rows)):
        told = row["comparison"]
        middle, low, high = (metric.factor * told[name] for name in ("difference", "low", "high"))
        colour = PALETTE[7] if told["verdict"] == "tied" else PALETTE[0]
        gid = f"difference-{number}-{place}"
        axes.plot([low, high], [place, place], color=colour, linewidth=2.0)
        axes.plot([middle], [place], "o", color=colour, markersize=5, gid=gid)
        tips[gid] = f"{row['variant']}: {middle:+.2f} ({low:+.2f} to {high:+.2f}), {told['verdict']}"
    axes.set_yticks(range(len(rows)), [shortened(row["variant"], 30) for row in reversed(rows)])
    axes.set_xlabel(f"{metric.title}: minus {table['reference']}")
    return to_svg(figure, f"study-{number}", f"Differences from {table['reference']}", tips)
