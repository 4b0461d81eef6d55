# SPDX-License-Identifier: Apache-2.0
"""Quality under a budget and the cost of a target, read off a run's curve of (cost so far, score)."""

from collections.abc import Sequence

import numpy

Curve = Sequence[tuple[float, float]]
"""(cost since the beginning, score then) of every evaluation, costs ascending: bytes, optimiser steps, rounds."""


def quality_under(curve: Curve, budget: float) -> float | None:
    """The score of the last evaluation that the budget pays for; None: it pays for none.

    The last and not the best: a best of many looks is chosen on the test set.
    """
    paid = [score for cost, score in curve if cost <= budget]
    return paid[-1] if paid else None


def cost_to(curve: Curve, target: float, higher_is_better: bool = True) -> float | None:
    """What it cost until the score first reached the target; None: it never did."""
    reached = (cost for cost, score in curve if (score >= target if higher_is_better else score <= target))
    return next(reached, None)


def quantiles(values: Sequence[float], at: Sequence[float] = (0.1, 0.5, 0.9)) -> tuple[float, ...]:
    """Quantiles of the clients' scores, linear between neighbours.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("quantiles of no values")
    return tuple(float(value) for value in numpy.quantile(numpy.asarray(values, dtype=float), at))
