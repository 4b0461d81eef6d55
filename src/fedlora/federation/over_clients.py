# SPDX-License-Identifier: Apache-2.0
"""How the scores of many clients spread: each metric's mean over clients, over examples, and over the worst of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from fedlora.core.metrics import Metric, Score, Scoring


@dataclass(frozen=True, slots=True)
class Spread:
    """One metric over the clients that have one."""

    mean: float
    """Every client counts the same."""
    weighted_mean: float
    """Over all examples together: clients count by their examples."""
    standard_deviation: float
    """Over clients."""
    worst_tenth: float
    """The mean of the worst ceil(K / 10)."""
    count: int
    """K, the clients."""


def spread(scores: Sequence[Score | None], metric: Metric) -> Spread | None:
    """A metric's spread; None where no client's score tells it."""
    told = [(value, score) for score in scores if score is not None and (value := metric.of(score)) is not None]
    whole = metric.of(sum((score for _, score in told), Score(0)))
    if whole is None:
        return None
    values = sorted(value for value, _ in told)
    mean = sum(values) / len(values)
    worst = (values if metric.higher_is_better else values[::-1])[: math.ceil(len(values) / 10)]
    return Spread(
        mean=mean,
        weighted_mean=whole,
        standard_deviation=math.sqrt(sum((value - mean) ** 2 for value in values) / len(values)),
        worst_tenth=sum(worst) / len(worst),
        count=len(values),
    )


def spreads(scores: Sequence[Score | None], scoring: Scoring) -> dict[str, Spread]:
    """The spread of every metric that some client's score tells, by name."""
    found = {metric.name: spread(scores, metric) for metric in scoring.metrics}
    return {name: told for name, told in found.items() if told is not None}


def spread_lines(told: Mapping[str, Spread]) -> dict[str, dict[str, float]]:
    """The same as plain numbers, as `rounds.jsonl` has them."""
    return {name: asdict(one) for name, one in told.items()}
