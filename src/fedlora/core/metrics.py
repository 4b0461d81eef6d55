# SPDX-License-Identifier: Apache-2.0
"""Metrics: additive sums over examples, and a function from the sums to each metric's value.

A task names its metrics; nothing else in the package knows what an accuracy is. Because a score holds sums and not
values, the score of a whole is the sum of the scores of its parts, whatever the parts are: batches, clients, sites.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

Sums = Mapping[str, float]
"""Name -> sum over examples, such as {"correct": 9, "loss": 3.2}. What is not named is zero."""
Range = tuple[float, float]
"""The least and the most that one example may add to a sum."""
Format = Literal["percent", "plain"]
"""How a value is written: as a percentage of a share in [0, 1], or as it is."""

_LARGEST = 2**53
"""No whole number of a score is larger: what every reader of JSON can hold."""
EXAMPLES = "examples"
"""Under this name a metric's function finds the number of examples beside the sums."""


@dataclass(frozen=True, slots=True)
class Score:
    """Sums over examples: how well one model did on them."""

    examples: int
    sums: Sums = field(default_factory=dict)

    def __add__(self, other: "Score") -> "Score":
        """The score of both sets of examples together."""
        names = dict.fromkeys([*self.sums, *other.sums])
        sums = {name: self.sums.get(name, 0) + other.sums.get(name, 0) for name in names}
        return Score(self.examples + other.examples, sums)


@dataclass(frozen=True, slots=True)
class Metric:
    """One number that tells how well a model does."""

    name: str
    """As records and tables call it: `accuracy`."""
    higher_is_better: bool
    value: Callable[[Sums], float | None]
    """From the sums, with the number of examples under `examples` (at least 1), to the value; None: these sums do not
    tell it."""
    format: Format = "plain"
    title: str = ""
    """At an axis: `accuracy, %`; empty: the name."""

    def of(self, score: Score | None) -> float | None:
        """The value of a score; None where there is none, or where it has no examples."""
        if score is None or not score.examples:
            return None
        return self.value({EXAMPLES: score.examples, **score.sums})

    def words(self, value: float) -> str:
        """A value as it is read: `61.2 %`, or `1.234`."""
        return f"{100 * value:.1f} %" if self.format == "percent" else f"{value:.{1 if abs(value) >= 100 else 3}f}"


def mean(name: str, sums: Sums) -> float:
    """A sum an example."""
    return sums.get(name, 0) / sums[EXAMPLES]


def mean_of(name: str) -> Callable[[Sums], float | None]:
    """The function from sums to the mean of one of them."""
    return partial(mean, name)


@dataclass(frozen=True, slots=True)
class Scoring:
    """How models are scored: the metrics, and the sums that a client's score may hold."""

    metrics: tuple[Metric, ...]
    """The first is the headline: what curves show and choices go by."""
    sums: Mapping[str, Range]
    """Name -> what one example may add. A score with another name, or out of range, is refused."""

    @property
    def headline(self) -> Metric:
        """The metric that curves show and choices go by."""
        return self.metrics[0]

    def values(self, score: Score | None) -> dict[str, float]:
        """Every metric that this score tells, by name."""
        values = {metric.name: metric.of(score) for metric in self.metrics}
        return {name: value for name, value in values.items() if value is not None}

    def to_json(self) -> list[dict[str, object]]:
        """The metrics as a run folder describes them, for readers that know nothing of the task."""
        return [
            {
                "name": metric.name,
                "higher_is_better": metric.higher_is_better,
                "format": metric.format,
                "title": metric.title or metric.name,
            }
            for metric in self.metrics
        ]

    def goodness(self, score: Score) -> float | None:
        """The headline, turned so that more is better."""
        value = self.headline.of(score)
        return value if value is None or self.headline.higher_is_better else -value

    def fault(self, score: Score) -> str | None:
        """Why a score from elsewhere cannot be one of these metrics; None: it can."""
        for name, value in score.sums.items():
            if name not in self.sums:
                return "a score with a sum that was not asked for"
            if not (abs(value) <= _LARGEST if isinstance(value, int) else math.isfinite(value)):
                return "a score that is not finite"
            least, most = self.sums[name]
            if score.examples and not least * score.examples <= value <= most * score.examples:
                return "a score of numbers that cannot be"
            if not score.examples and value:
                return "a score of numbers that cannot be"
        return None
