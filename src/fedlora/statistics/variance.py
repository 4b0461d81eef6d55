# SPDX-License-Identifier: Apache-2.0
"""Where the variance of a study's scores comes from: partition draw, method, their interaction, training seed."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares of the variance of one score; they add up to 1 (all 0 where nothing varies)."""

    draw: float
    method: float
    interaction: float
    """Which method does well depends on the draw: this part makes answers flip."""
    seed: float
    """Of the training alone; NaN where no cell was run with a second seed, and then it is part of the
    interaction."""
    variance: float
    """The whole, in squared units of the score."""


def shares(scores: Mapping[tuple[str, int, int], float]) -> Shares:
    """Estimate the components of score = mean + method + draw + method x draw + seed by the method of moments.

    Mean squares of the two-way table of each cell's first seed give method, draw, and interaction with seed; the
    differences between seeds of one cell give the seed's part. An estimate below zero counts as zero.

    Args:
        scores: by (method, draw, seed). Every method has the same draws; some cells have further seeds.

    Raises:
        ValueError: fewer than two methods or draws, or a cell is missing.
    """
    methods = sorted({method for method, _, _ in scores})
    draws = sorted({draw for _, draw, _ in scores})
    if len(methods) < 2 or len(draws) < 2:
        raise ValueError(f"shares of variance need two methods and two draws, not {len(methods)} and {len(draws)}.")
    cells = {
        (method, draw): [value for (m, d, _), value in sorted(scores.items()) if (m, d) == (method, draw)]
        for method in methods
        for draw in draws
    }
    missing = [cell for cell, values in cells.items() if not values]
    if missing:
        raise ValueError(f"the cell of {missing[0][0]} on draw {missing[0][1]} has no score.")
    table = numpy.array([[cells[method, draw][0] for draw in draws] for method in methods])
    by_method, by_draw, mean = table.mean(axis=1), table.mean(axis=0), table.mean()
    m, d = table.shape
    of_methods = d * float(((by_method - mean) ** 2).sum()) / (m - 1)
    of_draws = m * float(((by_draw - mean) ** 2).sum()) / (d - 1)
    residual = float(((table - by_method[:, None] - by_draw[None] + mean) ** 2).sum()) / ((m - 1) * (d - 1))
    repeated = [numpy.var(values, ddof=1) for values in cells.values() if len(values) > 1]
    seed = float(numpy.mean(repeated)) if repeated else 0.0
    parts = {
        "draw": max(0.0, (of_draws - residual) / m),
        "method": max(0.0, (of_methods - residual) / d),
        "interaction": max(0.0, residual - seed),
        "seed": min(seed, residual) if repeated else 0.0,
    }
    whole = sum(parts.values())
    told = {name: part / whole if whole else 0.0 for name, part in parts.items()}
    return Shares(**told | ({} if repeated else {"seed": float("nan")}), variance=whole)
