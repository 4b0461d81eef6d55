# SPDX-License-Identifier: Apache-2.0
"""What all metrics of answers have, whether the answers are generated or chosen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedlora.core.metrics import Metric, Range, Scoring, Sums
from fedlora.training.metrics.intervals import Interval, bootstrap, wilson


@dataclass(frozen=True, slots=True)
class AnswerMetric:
    """One metric of answers; who counts the sums of an example is told by its kind."""

    metric: Metric
    """From sums over examples to the value."""
    ranges: Mapping[str, Range]
    """What one example may add to each sum."""
    signature: str
    """What the value was computed with, for records."""
    share: bool
    """Whether the value is the share of examples that are right, so that Wilson's interval fits."""

    def interval(self, examples: Sequence[Sums], seed: int = 0) -> Interval | None:
        """The value over examples with a 95 % interval; None where they are too few."""
        if self.share:
            return wilson(round(sum(sums.get(self.metric.name, 0) for sums in examples)), len(examples))
        return bootstrap(self.metric, examples, seed)


def answer_scoring(metrics: Sequence[AnswerMetric]) -> Scoring:
    """How answers are scored: the first metric is the headline."""
    ranges = {name: bounds for metric in metrics for name, bounds in metric.ranges.items()}
    return Scoring(tuple(metric.metric for metric in metrics), ranges)
