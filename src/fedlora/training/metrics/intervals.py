# SPDX-License-Identifier: Apache-2.0
"""How far a score may be off because other examples might have been drawn: bootstrap and Wilson intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

from fedlora.core.metrics import Metric, Score, Sums
from fedlora.core.seeds import numpy_stream

RESAMPLES = 1_000
_NORMAL = 1.959964
"""The 97.5 % quantile of the normal distribution."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with the ends of its 95 % interval."""

    value: float
    low: float
    high: float
    name: str
    """How the interval was found."""


def bootstrap(metric: Metric, examples: Sequence[Sums], seed: int = 0, resamples: int = RESAMPLES) -> Interval | None:
    """A metric over examples with its percentile interval under drawing the examples anew.

    Args:
        metric: of the sums.
        examples: the sums of each.
        seed: of the draws.
        resamples: how many draws.

    Returns:
        None where fewer than two examples tell nothing, or the metric is not defined on them.
    """
    value = metric.of(_score(examples))
    if len(examples) < 2 or value is None:
        return None
    values = [one for one in _resampled(metric, examples, seed, "", resamples) if one is not None]
    low, high = numpy.percentile(values, [2.5, 97.5])
    return Interval(value, float(low), float(high), f"95 % bootstrap interval over {len(examples):,} examples")


def mean_bootstrap(
    metric: Metric, groups: Sequence[Sequence[Sums]], seed: int = 0, resamples: int = RESAMPLES
) -> Interval | None:
    """The mean of a metric over groups of examples, such as clients, with its percentile interval under drawing the
    examples of each group anew. The groups stay: the interval says nothing of other clients.

    Args:
        metric: of the sums.
        groups: of each, the sums of its examples.
        seed: of the draws.
        resamples: how many draws.

    Returns:
        None as for `bootstrap`, of all groups together, or where every draw gives the same: such as a share of 0.
    """
    values = [metric.of(_score(group)) for group in groups]
    known = [value for value in values if value is not None]
    count = sum(map(len, groups))
    if count < 2 or not known:
        return None
    drawn = [_resampled(metric, group, seed, str(number), resamples) for number, group in enumerate(groups)]
    resampled = ([value for value in each if value is not None] for each in zip(*drawn, strict=True))
    low, high = numpy.percentile([sum(found) / len(found) for found in resampled if found], [2.5, 97.5])
    if low == high:
        return None
    name = f"95 % bootstrap interval over {count:,} examples in {len(groups):,} groups"
    return Interval(sum(known) / len(known), float(low), float(high), name)


def paired_bootstrap(
    metric: Metric, ours: Sequence[Sums], theirs: Sequence[Sums], seed: int = 0, resamples: int = RESAMPLES
) -> Interval | None:
    """The difference of two models on the same examples, with its interval: each draw takes the same ones of both.

    Args:
        metric: of the sums.
        ours: the sums of each example by one model.
        theirs: of the same examples in the same order by another, whose metric is subtracted.
        seed: of the draws.
        resamples: how many draws.

    Returns:
        None as for `bootstrap`.

    Raises:
        ValueError: there are not as many examples of one as of the other.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"paired scores need the same examples, but there are {len(ours)} and {len(theirs)}")
    values = metric.of(_score(ours)), metric.of(_score(theirs))
    if len(ours) < 2 or values[0] is None or values[1] is None:
        return None
    (our_names, our_matrix), (their_names, their_matrix) = _matrix(ours), _matrix(theirs)
    differences = []
    for counts in _draws(len(ours), seed, resamples):
        one = _of(metric, our_names, counts @ our_matrix, len(ours))
        other = _of(metric, their_names, counts @ their_matrix, len(ours))
        if one is not None and other is not None:
            differences.append(one - other)
    low, high = numpy.percentile(differences, [2.5, 97.5])
    name = f"95 % paired bootstrap interval over {len(ours):,} examples"
    return Interval(values[0] - values[1], float(low), float(high), name)


def wilson(hits: int, examples: int) -> Interval | None:
    """A share of examples with Wilson's interval, which holds near 0 and 1 too; None without examples."""
    if not examples:
        return None
    share, z2 = hits / examples, _NORMAL**2
    centre = (share + z2 / (2 * examples)) / (1 + z2 / examples)
    half = _NORMAL / (1 + z2 / examples) * math.sqrt(share * (1 - share) / examples + z2 / (4 * examples**2))
    low, high = (0.0 if not hits else centre - half), (1.0 if hits == examples else centre + half)
    return Interval(share, low, high, f"95 % Wilson interval over {examples:,} examples")


def _score(examples: Sequence[Sums]) -> Score:
    return sum((Score(1, sums) for sums in examples), Score(0))


def _matrix(examples: Sequence[Sums]) -> tuple[list[str], NDArray[numpy.float64]]:
    names = sorted({name for sums in examples for name in sums})
    rows = [[float(sums.get(name, 0.0)) for name in names] for sums in examples]
    return names, numpy.array(rows, dtype=numpy.float64).reshape(len(examples), len(names))


def _resampled(metric: Metric, examples: Sequence[Sums], seed: int, stream: str, resamples: int) -> list[float | None]:
    """The metric of each resample."""
    names, matrix = _matrix(examples)
    drawn = _draws(len(examples), seed, resamples, stream)
    return [_of(metric, names, counts @ matrix, len(examples)) for counts in drawn]


def _draws(count: int, seed: int, resamples: int, stream: str = "") -> list[NDArray[numpy.float64]]:
    """How often each example is drawn, for each resample; groups have streams of their own."""
    generator = numpy_stream(seed, "bootstrap", *filter(None, [stream]))
    drawn = (generator.integers(0, count, count) for _ in range(resamples))
    return [numpy.bincount(indices, minlength=count).astype(numpy.float64) for indices in drawn]


def _of(metric: Metric, names: Sequence[str], sums: NDArray[numpy.float64], count: int) -> float | None:
    return metric.of(Score(count, dict(zip(names, sums.tolist(), strict=True))))
