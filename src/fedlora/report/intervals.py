# SPDX-License-Identifier: Apache-2.0
"""How far the mean over seeds may be off: Student's t interval."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

NAME = "95 % t interval of the mean over seeds"

_QUANTILES = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""The 97.5 % quantile of Student's t for 1, 2, ... degrees of freedom."""
_NORMAL = 1.959964


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over seeds, and the ends of its interval."""

    mean: float
    low: float
    high: float
    seeds: int


def t_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, for at least 1 degree of freedom, good to three decimals."""
    if freedom <= len(_QUANTILES):
        return _QUANTILES[freedom - 1]
    z, n = _NORMAL, freedom  # two terms of Cornish and Fisher's expansion
    return z + (z**3 + z) / (4 * n) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)


def half_width(deviation: float, seeds: int) -> float:
    """Half the interval's width, from the sample's standard deviation over at least 2 seeds."""
    return t_quantile(seeds - 1) * deviation / math.sqrt(seeds)


def over_seeds(values: Sequence[float]) -> Interval | None:
    """The mean and its interval; None where a single seed tells nothing of the spread."""
    if len(values) < 2:
        return None
    mean, half = statistics.fmean(values), half_width(statistics.stdev(values), len(values))
    return Interval(mean, mean - half, mean + half, len(values))
