# SPDX-License-Identifier: Apache-2.0
"""What a run measured, as its folder says: names, directions and formats of metrics, and the level of chance."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_MANY = 100
"""From here on, such as a perplexity, one decimal says enough."""


@dataclass(frozen=True, slots=True)
class MetricInfo:
    """One metric, as tables and axes show it."""

    name: str
    higher_is_better: bool
    format: str
    """`percent`: a share in [0, 1]; anything else: a number as it is."""
    title: str
    """At an axis."""

    @property
    def factor(self) -> float:
        """From a value to what an axis shows."""
        return 100.0 if self.format == "percent" else 1.0

    def number(self, value: float) -> str:
        """A value as a cell of a table shows it."""
        shown = self.factor * value
        return f"{shown:.{1 if self.format == 'percent' or abs(shown) >= _MANY else 3}f}"

    def words(self, value: float) -> str:
        """A value in a sentence."""
        return f"{self.number(value)} %" if self.format == "percent" else self.number(value)

    def within(self, low: float, high: float) -> tuple[float, float]:
        """The ends of an interval, cut where no value can be: a share lies in [0, 1]."""
        return (max(low, 0.0), min(high, 1.0)) if self.format == "percent" else (low, high)


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """The task of a run."""

    metrics: tuple[MetricInfo, ...]
    """The headline first."""
    chance: float | None
    """The headline of a model that guesses."""

    @property
    def headline(self) -> MetricInfo:
        """What curves show."""
        return self.metrics[0]

    @property
    def others(self) -> tuple[MetricInfo, ...]:
        """All metrics but the headline."""
        return self.metrics[1:]


_BEFORE: Mapping[str, Any] = {
    "metrics": [
        {"name": "accuracy", "higher_is_better": True, "format": "percent", "title": "accuracy, %"},
        {"name": "loss", "higher_is_better": False, "format": "plain", "title": "mean loss an example"},
    ],
    "chance": None,
}
"""The task of folders from before folders told it."""


def read_task(environment: Mapping[str, Any]) -> TaskInfo:
    """The task that `environment.json` describes.

    Raises:
        KeyError, TypeError, ValueError: it describes none.
    """
    told = environment.get("task", _BEFORE)
    metrics = tuple(
        MetricInfo(str(line["name"]), bool(line["higher_is_better"]), str(line["format"]), str(line["title"]))
        for line in told["metrics"]
    )
    if not metrics:
        raise ValueError("environment.json names no metric of the task")
    return TaskInfo(metrics, None if told["chance"] is None else float(told["chance"]))
