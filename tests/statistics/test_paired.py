"""Comparisons by hand, and on thousands of simulated studies whose truth is known."""

import math

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlora.statistics.paired import compare_with, detectable_gap, holm, interval

# Of the variance of a score: draw, method x draw, seed (a preprint's 204 runs). In points: a standard deviation of 4.
DRAW, INTERACTION, SEED = 0.508, 0.469, 0.023
SPREAD = 4.0
STUDIES, DRAWS = 2000, 10


def studies(gaps, count=STUDIES, start=0):
    """Simulated studies of len(gaps) methods whose true means differ from the first's by `gaps`."""
    draw = numpy.random.default_rng(start)
    methods = len(gaps)
    for _ in range(count):
        common = draw.normal(0.0, SPREAD * math.sqrt(DRAW), DRAWS)
        each = draw.normal(0.0, SPREAD * math.sqrt(INTERACTION + SEED), (methods, DRAWS))
        table = 60.0 + common + each + numpy.asarray(gaps)[:, None]
        yield {f"m{k}": dict(enumerate(row.tolist())) for k, row in enumerate(table)}


def test_a_comparison_worked_by_hand():
    """Differences 1, 2, 3, 4: mean 2.5, deviation 1.29099, t(3, 97.5 %) = 3.18245, half a width 2.05426."""
    scores = {"fedit": dict.fromkeys(range(4), 50.0), "other": {0: 51.0, 1: 52.0, 2: 53.0, 3: 54.0}}
    (found,) = compare_with("fedit", scores)
    assert found.difference == pytest.approx(2.5)
    assert (found.low, found.high) == pytest.approx((0.44574, 4.55426), abs=1e-5)
    assert found.p == pytest.approx(0.030466, abs=1e-5)  # t = 3.87298 with 3 degrees of freedom
    assert found.corrected == found.p
    assert found.verdict == "better"


def test_a_lower_score_can_be_better():
    scores = {"fedit": dict.fromkeys(range(4), 2.0), "other": {0: 1.1, 1: 1.0, 2: 1.2, 3: 1.1}}
    assert compare_with("fedit", scores, higher_is_better=False)[0].verdict == "better"
    assert compare_with("fedit", scores)[0].verdict == "worse"


def test_holm_multiplies_the_smallest_p_by_all_comparisons():
    draw = numpy.random.default_rng(1)
    scores = {f"m{k}": dict(enumerate(draw.normal(0.1 * k, 1.0, 8).tolist())) for k in range(4)}
    found = compare_with("m0", scores)
    smallest = min(found, key=lambda one: one.p)
    assert smallest.corrected == pytest.approx(min(1.0, 3 * smallest.p))
    assert all(one.corrected >= one.p for one in found)


def test_only_common_draws_count():
    scores = {"a": {0: 1.0, 1: 2.0, 2: 3.0, 9: 100.0}, "b": {0: 1.0, 1: 2.0, 2: 3.0, 8: -100.0}}
    (found,) = compare_with("a", scores)
    assert (found.draws, found.difference, found.p, found.verdict) == (3, 0.0, 1.0, "tied")


def test_holm_by_hand():
    """0.01 x 3, then 0.02 x 2, then 0.021 x 1, which does not fall below the one before."""
    assert holm([0.02, 0.01, 0.021]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_p_is_that_of_the_paired_test():
    from scipy import stats

    draw = numpy.random.default_rng(6)
    ours, theirs = draw.normal(0.5, 1.0, 9), draw.normal(0.0, 1.0, 9)
    (found,) = compare_with("a", {"a": dict(enumerate(theirs.tolist())), "b": dict(enumerate(ours.tolist()))})
    assert found.p == pytest.approx(stats.ttest_rel(ours, theirs).pvalue)


@pytest.mark.parametrize("broken", [{0: 1.0}, {0: 1.0, 1: math.nan}])
def test_what_cannot_be_compared_is_refused(broken):
    with pytest.raises(ValueError, match="two" if len(broken) == 1 else "finite"):
        compare_with("a", {"a": {0: 1.0, 1: 2.0}, "b": broken})


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=12), st.floats(-50, 50))
def test_an_interval_moves_with_its_values(values, by):
    low, high = interval(values)
    moved = interval([value + by for value in values])
    assert low <= numpy.mean(values) <= high
    assert moved == pytest.approx((low + by, high + by), abs=1e-6)


def test_intervals_cover_the_truth():
    inside = 0
    for scores in studies([0.0, 2.0], start=1):
        (found,) = compare_with("m0", scores)
        inside += found.low <= 2.0 <= found.high
    assert inside / STUDIES >= 0.935


def test_a_percentile_bootstrap_would_cover_too_little():
    """The planted fault: the interval that the field draws, on the same studies."""
    inside, draw = 0, numpy.random.default_rng(2)
    for scores in studies([0.0, 2.0], count=600, start=1):
        differences = numpy.array([scores["m1"][k] - scores["m0"][k] for k in range(DRAWS)])
        means = draw.choice(differences, (400, DRAWS)).mean(axis=1)
        low, high = numpy.quantile(means, (0.025, 0.975))
        inside += low <= 2.0 <= high
    assert inside / 600 < 0.935


def test_equal_methods_are_seldom_told_apart():
    """Eleven comparisons together, none of them true; without the correction a third of the studies would err."""
    wrong = uncorrected = 0
    for scores in studies([0.0] * 12, start=3, count=1000):
        found = compare_with("m0", scores)
        wrong += any(one.verdict != "tied" for one in found)
        uncorrected += any(one.p < 0.05 for one in found)
    assert wrong / 1000 <= 0.05
    assert uncorrected / 1000 > 0.2


def test_a_planted_difference_is_found_with_the_right_sign():
    right = wrong = 0
    for scores in studies([0.0, 5.0, *[0.0] * 10], start=4, count=500):
        verdict = compare_with("m0", scores)[0].verdict
        right, wrong = right + (verdict == "better"), wrong + (verdict == "worse")
    assert wrong == 0
    assert right / 500 > 0.5


def test_the_detectable_gap_is_found_as_often_as_it_says():
    deviation = SPREAD * math.sqrt(2 * (INTERACTION + SEED))
    gap = detectable_gap(deviation, DRAWS)
    found = sum(compare_with("m0", scores)[0].verdict == "better" for scores in studies([0.0, gap], start=5))
    assert found / STUDIES == pytest.approx(0.8, abs=0.03)
    assert detectable_gap(1.0, 10) == pytest.approx(0.9962, abs=2e-3)  # the tables' value for ten pairs, 5 %, 80 %
    assert detectable_gap(0.0, DRAWS) == 0.0
    assert detectable_gap(deviation, 40) < gap / 1.8
