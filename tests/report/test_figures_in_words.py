"""What figures and tables compute before anything is drawn: intervals, curves that coincide, trends of losses."""

import re
from importlib.resources import files

import pytest

from fedlora.report.curves import Curve, Point, coinciding, curves
from fedlora.report.intervals import Interval, half_width, over_seeds, t_quantile
from fedlora.report.read import Group, RunData
from fedlora.report.remarks import remarks
from fedlora.report.task import read_task


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.7062), (2, 4.3027), (9, 2.2622), (30, 2.0423), (40, 2.0211), (120, 1.9799)]
)
def test_quantiles_are_those_of_the_tables(freedom, quantile):
    assert t_quantile(freedom) == pytest.approx(quantile, abs=0.001)


def test_an_interval_of_three_seeds():
    assert half_width(1.0, 3) == pytest.approx(4.303 / 3**0.5)
    found = over_seeds([1.0, 2.0, 3.0])
    assert found == Interval(2.0, pytest.approx(2 - 2.484, abs=1e-3), pytest.approx(2 + 2.484, abs=1e-3), 3)
    assert over_seeds([1.0]) is None


def test_the_interval_of_a_share_ends_where_shares_end():
    share, loss = read_task({}).metrics
    assert share.within(-0.2, 1.3) == (0.0, 1.0)
    assert loss.within(-0.2, 1.3) == (-0.2, 1.3)


def curve(number, *means):
    return Curve(number, f"m{number}", [Point(float(x), mean, None) for x, mean in enumerate(means, start=1)])


def test_curves_coincide_where_they_cannot_be_told_apart():
    drawn = [curve(0, 0.1, 0.9), curve(1, 0.1, 0.8), curve(2, 0.1, 0.901), curve(3, 0.1), curve(4, 0.1, 0.9)]
    assert [[c.number for c in same] for same in coinciding(drawn)] == [[0, 2, 4], [1], [3]]
    assert len(coinciding([curve(0, 0.5), curve(1, 0.5)])) == 1
    assert coinciding([]) == []


def runs_of(*losses, seeds=1):
    rounds = [{"round": n, "loss": loss, "bytes_up": 10} for n, loss in enumerate(losses, start=1)]
    split = {"clients": {"a": {}}, "left_out_clients": []}
    config = {"data": {"source": "files"}}
    return [RunData(None, "m", config, rounds, [], split, {}, read_task({}), True) for _ in range(seeds)]


def remarked(*losses):
    runs = runs_of(*losses)
    return remarks(runs, [Group("m", runs)])


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ((4.0, 4.0, 4.01, 3.99), "The training loss hardly moves: m (4.000 in round 1, 3.990 at the end). Try "),
        ((2.0, 2.1, 2.5, 3.0), "The training loss rises: m (2.000 in round 1, 3.000 at the end). Try "),
        ((2.0, 1.0, 1.2, 1.6), "The training loss rises again: m (1.000 in round 2, 1.600 at the end). Try "),
    ],
)
def test_a_loss_that_does_not_fall_is_told(losses, words):
    (remark,) = remarked(*losses)
    assert remark.startswith(words)
    assert "train.lr" in remark


@pytest.mark.parametrize(
    "losses", [(2.0, 1.5, 1.2, 1.1), (2.0, 1.0, 1.1, 1.05), (4.0, 4.0, 4.0), (0.01,) * 5, (None,) * 6, (2.0, None, 1.0)]
)
def test_other_losses_are_not(losses):
    assert remarked(*losses) == []


def test_a_curve_of_bytes_begins_with_the_first_byte():
    run = runs_of(2.0, 1.0)[0]
    (found,) = curves([Group("m", [run])], lambda line: line["loss"], "bytes_up")
    assert [point.x for point in found.points] == [10, 20]


def luminance(colour):
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_colours_have_contrast_on_light_and_on_dark():
    """3 to 1 for lines and marks, 4.5 to 1 for text, as WCAG 2 asks."""
    style = files("fedlora.report").joinpath("style.css").read_text()
    light, dark = (dict(re.findall(r"(--\w+): (#\w{6})", part)) for part in style.split("body {")[0].split("@media"))
    for colours in (light, dark):
        for ground in ("--paper", "--card"):
            assert min(contrast(colours[name], colours[ground]) for name in ("--ink", "--soft")) >= 4.5
            lines = [name for name in colours if re.fullmatch("--(c[0-7]|frame)", name)]
            assert len(lines) == 9
            assert min(contrast(colours[name], colours[ground]) for name in lines) >= 3
