# SPDX-License-Identifier: Apache-2.0
"""Methods compared with one reference method, paired over partition draws.

Which clients hold which examples moves scores more than most methods do, so methods are run on the same draws, and what
is compared is the difference on each draw. The interval is Student's t on those differences; the verdict counts how
many comparisons there are (Holm's correction), the interval does not.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy

Verdict = Literal["better", "worse", "tied"]
"""Of a method beside the reference; tied: these draws cannot tell them apart."""

LEVEL = 0.95
"""Of the intervals; 1 - LEVEL is the share of false verdicts that the correction allows over all comparisons."""
POWER = 0.8
"""How often the detectable gap would be found."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One method beside the reference."""

    method: str
    reference: str
    draws: int
    """On which both have a score."""
    difference: float
    """Mean over the draws of the method's score minus the reference's."""
    low: float
    """Of the interval of the mean difference, for this comparison alone."""
    high: float
    p: float
    """Two-sided, of the paired t-test; 1 where all differences are zero."""
    corrected: float
    """p after Holm's correction for all comparisons made together."""
    detectable: float
    """The smallest true difference that would be found `POWER` of the times, at the strictest step of the
    correction."""
    verdict: Verdict


def compare_with(
    reference: str, scores: Mapping[str, Mapping[int, float]], higher_is_better: bool = True, level: float = LEVEL
) -> list[Comparison]:
    """Every other method beside the reference, in the order given.

    Args:
        reference: the method that the others are compared with.
        scores: of each method, by draw. Draws that one of two methods lacks do not count for the two.
        higher_is_better: the direction of the score.
        level: of the intervals.

    Returns:
        One comparison for each other method.

    Raises:
        KeyError: the reference has no scores.
        ValueError: a method has fewer than two draws in common with the reference, or a score is not finite.
    """
    others = [method for method in scores if method != reference]
    if not others:
        return []
    differences = [_differences(scores[method], scores[reference], method, reference) for method in others]
    p = [_p(each) for each in differences]
    corrected = holm(p)
    strictest = (1.0 - level) / len(others)
    sign = 1.0 if higher_is_better else -1.0
    found = []
    for method, each, raw, adjusted in zip(others, differences, p, corrected, strict=True):
        low, high = interval(each, level)
        mean = float(numpy.mean(each))
        verdict: Verdict = "tied" if adjusted >= 1.0 - level else "better" if sign * mean > 0 else "worse"
        gap = detectable_gap(float(numpy.std(each, ddof=1)), len(each), strictest)
        found.append(Comparison(method, reference, len(each), mean, low, high, raw, adjusted, gap, verdict))
    return found


def interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """Student's interval of the mean of at least two values."""
    from scipy import stats

    count = len(values)
    half = float(stats.t.ppf(0.5 + level / 2.0, count - 1)) * float(numpy.std(values, ddof=1)) / math.sqrt(count)
    mean = float(numpy.mean(values))
    return mean - half, mean + half


def detectable_gap(deviation: float, draws: int, error: float = 1.0 - LEVEL, power: float = POWER) -> float:
    """The smallest true mean difference that a paired t-test finds so often.

    Args:
        deviation: the standard deviation of the differences.
        draws: how many there are, at least two.
        error: how often equal methods may be told apart.
        power: how often the difference is to be found.
    """
    return deviation * _effect(draws, error, power)


@cache
def _effect(draws: int, error: float, power: float) -> float:
    """The detectable gap in standard deviations of the differences."""
    from scipy import optimize, stats

    limit = stats.t.ppf(1.0 - error / 2.0, draws - 1)
    # The noncentral t is a normal over an independent chi: the mean over 4,000 equally likely values of the chi. (The
    # library's own noncentral t is not a number where draws are few.)
    chi = stats.chi.ppf((numpy.arange(4000) + 0.5) / 4000, draws - 1) / math.sqrt(draws - 1)

    def missing(effect: float) -> float:
        shift = effect * math.sqrt(draws)
        found = stats.norm.cdf(shift - limit * chi) + stats.norm.cdf(-shift - limit * chi)
        return float(found.mean()) - power

    return float(optimize.brentq(missing, 1e-6, 1e4))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's correction: p values such that "below x" errs in at most a share x of all families of comparisons.

    The k-th smallest of n is multiplied by n - k + 1, and none falls below a smaller one's.
    """
    corrected, largest = [0.0] * len(p), 0.0
    for place, number in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - place) * p[number]))
        corrected[number] = largest
    return corrected


def _differences(ours: Mapping[int, float], theirs: Mapping[int, float], method: str, reference: str) -> list[float]:
    common = sorted(ours.keys() & theirs.keys())
    if len(common) < 2:
        raise ValueError(f"{method} and {reference} have {len(common)} draws in common: a comparison needs two.")
    differences = [ours[draw] - theirs[draw] for draw in common]
    if not all(map(math.isfinite, differences)):
        raise ValueError(f"{method} or {reference} has a score that is not finite.")
    return differences


def _p(differences: Sequence[float]) -> float:
    """Of the paired t-test, two-sided."""
    from scipy import stats

    mean, error = float(numpy.mean(differences)), float(numpy.std(differences, ddof=1)) / math.sqrt(len(differences))
    if error == 0.0:
        return 1.0 if mean == 0.0 else 0.0
    return float(2.0 * stats.t.sf(abs(mean) / error, len(differences) - 1))
