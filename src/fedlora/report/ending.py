# SPDX-License-Identifier: Apache-2.0
"""What came of a run, in a few lines: its scores, its page, its adapters."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedlora.report.page import HTML
from fedlora.report.shapes import require_intervals
from fedlora.report.task import MetricInfo, read_task
from fedlora.run_files import Shape, read_object

_SUMMARY: Shape = {"global": dict | None, "personal": dict | None}


def ending(folder: Path) -> list[str]:
    """The last lines of a finished run.

    Args:
        folder: of the run.

    Raises:
        RunFolderError: its summary is damaged.
    """
    summary, environment = (
        read_object(folder / name, shape)
        for name, shape in (("summary.json", _SUMMARY), ("environment.json", {"task": dict}))
    )
    headline = read_task(environment).headline
    require_intervals(folder / "summary.json", summary)
    scores = []
    if summary["global"]:
        whole = _told(summary, "global", summary["global"][headline.name], headline)
        scores.append(f"{whole} of the global model")
    if summary["personal"]:
        personal = _told(summary, "personal", summary["personal"]["mean"], headline)
        scores.append(f"{personal} of the clients' models, each on its own test part (mean)")
    lines = [f"done: {headline.name} {', '.join(scores)}" if scores else "done"]
    lines += [f"{what}: {path}" for what, path in (("run", folder), ("page", folder / HTML)) if path.exists()]
    for place, what in (("adapter", "adapter"), ("model", "model")):
        if (folder / place).is_dir():
            lines.append(f"{what}: {folder / place}")
    personal_models = sorted((folder / "clients").glob("*/*/fedlora.json"))
    if personal_models:
        lines.append(f"clients' own models: {len(personal_models)}, such as {personal_models[0].parent}")
    return lines


def _told(summary: Mapping[str, Any], part: str, value: float, metric: MetricInfo) -> str:
    """A score in words, with the interval over examples where the summary has one: `61.2 % (55.0 to 67.1)`."""
    ends = summary.get("intervals", {}).get(part, {}).get(metric.name)
    return metric.words(value) + (f" ({metric.number(ends[0])} to {metric.number(ends[-1])})" if ends else "")
