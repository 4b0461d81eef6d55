"""Shares of variance: by hand, and recovered from simulated studies; quality under a budget."""

import math

import numpy
import pytest

from fedlora.statistics.budgets import cost_to, quality_under, quantiles
from fedlora.statistics.variance import shares


def simulated(parts, methods=12, draws=10, start=0):
    """Scores with variances (draw, method, interaction, seed); three draws have a second seed."""
    draw = numpy.random.default_rng(start)
    of_draw, of_method, inter, seed = (math.sqrt(part) for part in parts)
    by_draw, by_method = draw.normal(0, of_draw, draws), draw.normal(0, of_method, methods)
    scores = {}
    for m in range(methods):
        for d in range(draws):
            cell = by_draw[d] + by_method[m] + draw.normal(0, inter)
            for s in range(2 if d < 3 else 1):
                scores[f"m{m}", d, s] = cell + draw.normal(0, seed)
    return scores


def test_shares_by_hand():
    """Two methods, two draws, values 0 2 / 4 6: rows differ by 4, columns by 2, nothing is left."""
    found = shares({("a", 0, 0): 0.0, ("a", 1, 0): 2.0, ("b", 0, 0): 4.0, ("b", 1, 0): 6.0})
    assert found.variance == pytest.approx(2.0 + 8.0)
    assert (found.draw, found.method, found.interaction) == pytest.approx((0.2, 0.8, 0.0))
    assert math.isnan(found.seed)


def test_the_seeds_share_comes_from_repeated_cells():
    """Every cell twice, one apart: variance 1/2 within, the residual of the first seeds is 1."""
    table = {("a", 0): 0.0, ("a", 1): 1.0, ("b", 0): 1.0, ("b", 1): 0.0}
    found = shares({(*cell, seed): value + seed for cell, value in table.items() for seed in (0, 1)})
    assert found.interaction == pytest.approx(0.5)
    assert found.seed == pytest.approx(0.5)


def test_planted_shares_are_recovered():
    planted = numpy.array([0.4, 0.1, 0.4, 0.1])
    found = [shares(simulated(planted, start=k)) for k in range(200)]
    mean = numpy.array([[one.draw, one.method, one.interaction, one.seed] for one in found]).mean(axis=0)
    assert mean == pytest.approx(planted, abs=0.04)


@pytest.mark.parametrize("scores", [{("a", 0, 0): 1.0}, {("a", 0, 0): 1.0, ("b", 1, 0): 2.0}])
def test_too_little_is_refused(scores):
    with pytest.raises(ValueError, match=r"two methods|no score"):
        shares(scores)


CURVE = [(10.0, 0.2), (20.0, 0.5), (30.0, 0.4), (40.0, 0.6)]


def test_quality_under_a_budget_is_the_last_paid_for():
    assert [quality_under(CURVE, budget) for budget in (5, 10, 35, 100)] == [None, 0.2, 0.4, 0.6]


def test_cost_to_a_target_is_the_first_time():
    assert [cost_to(CURVE, target) for target in (0.1, 0.5, 0.7)] == [10.0, 20.0, None]
    assert cost_to([(1.0, 3.0), (2.0, 2.0)], 2.5, higher_is_better=False) == 2.0


def test_quantiles():
    assert quantiles([float(k) for k in range(11)]) == pytest.approx((1.0, 5.0, 9.0))
    with pytest.raises(ValueError, match="no values"):
        quantiles([])
