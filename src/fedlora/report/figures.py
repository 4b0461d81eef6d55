# SPDX-License-Identifier: Apache-2.0
"""The figures of a report that have axes, each a function from runs to a drawing with its key."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes

from fedlora.report import key
from fedlora.report.curves import Against, Curve, Point, Value, coinciding, curves
from fedlora.report.intervals import NAME
from fedlora.report.key import Key
from fedlora.report.read import Group
from fedlora.report.svg import GREY, PALETTE, new_figure, to_svg
from fedlora.report.tables import size
from fedlora.report.task import MetricInfo
from fedlora.report.text import LONGEST_NAME, shortened, some

_MOST_DOTS = 400
"""Clients of a run that get a dot each. Of more, some are shown."""
_MOST_MARKERS = 60
"""Points of a curve that get a marker with their value. Of more, some; the last always."""
_DASH = 5.0
"""Length of one colour on a line of several, in widths of the line."""
_CHANCE: Mapping[str, Any] = {"color": GREY, "linestyle": (0, (1, 2)), "linewidth": 1.3, "zorder": 1}
"""The line at the score of a model that guesses."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure, its key, and what its caption has to say of it."""

    svg: str
    key: Sequence[Key] = ()
    remarks: Sequence[str] = ()


def curves_of(
    groups: Sequence[Group], value: Value, metric: MetricInfo, *, against: Against, chance: float | None, name: str
) -> Drawing | None:
    """One curve a method: the mean over seeds, with the interval of the mean where there are several seeds.

    Args:
        groups: one curve each; those without a point to show are named in a remark.
        value: what the curve shows of a round.
        metric: names the vertical axis, and formats the values.
        against: the horizontal axis; bytes are on a logarithmic one.
        chance: the value of a model that guesses, if known.
        name: tells this figure from the others of the page.

    Returns:
        None where no method has a point.
    """
    found = curves(groups, value, against)
    if not found:
        return None
    figure, (axes,) = new_figure()
    tips: dict[str, str] = {}
    together = coinciding(found)
    for same in together:
        tips |= _draw(axes, same, metric, against)
    entries = [key.of_group(curve.number, curve.label) for curve in found]
    if chance is not None:
        axes.axhline(metric.factor * chance, **_CHANCE)
        entries.append(key.of_chance(metric.words(chance)))
    axes.set_ylabel(metric.title)
    _label_x(axes, against)
    without = [group.label for group in groups if group.label not in {curve.label for curve in found}]
    remarks = [
        *(f"Shaded: {NAME}." for _ in found[:1] if any(curve.has_interval for curve in found)),
        *(f"{_listed([c.label for c in same])} coincide: one line in their colours." for same in together if same[1:]),
        *(f"No curve: {_listed(without)}." for _ in without[:1]),
    ]
    return Drawing(to_svg(figure, name, f"{metric.title} by {against}", tips), entries, remarks)


def _draw(axes: Axes, same: Sequence[Curve], metric: MetricInfo, against: Against) -> dict[str, str]:
    """Draw curves that lie on one another as one line in all their colours; returns the tips of its points."""
    first, tips = same[0], {}
    x, y = [p.x for p in first.points], [metric.factor * p.mean for p in first.points]
    for place, curve in enumerate(same):
        colour = PALETTE[curve.number % len(PALETTE)]
        alternating = (_DASH * (len(same) - place), (_DASH, _DASH * (len(same) - 1)))
        style: Any = alternating if len(same) > 1 else key.DASHES[key.turn(curve.number)]
        axes.plot(x, y, color=colour, linestyle=style, linewidth=1.5, dash_capstyle="butt")
        if curve.has_interval:
            ends = [_ends(point, metric) for point in curve.points]
            low, high = ([metric.factor * end[which] for end in ends] for which in (0, 1))
            axes.fill_between(x, low, high, color=colour, alpha=0.14 / len(same), linewidth=0)
    names = _listed([curve.label for curve in same])
    shown = some(list(enumerate(first.points))[::-1], _MOST_MARKERS)
    for place, point in shown:
        curve = same[place % len(same)]  # so that each of them has markers
        gid = f"dot{curve.number}-{place}"
        (dot,) = axes.plot([point.x], [metric.factor * point.mean], key.MARKERS[curve.number % len(key.MARKERS)])
        dot.set(gid=gid, color=PALETTE[curve.number % len(PALETTE)], markersize=4.0, markeredgewidth=0.0)
        where = f"{size(point.x)} sent" if against == "bytes_up" else f"round {point.x:.0f}"
        tips[gid] = f"{names}, {where}: {_words(point, metric)}"
    return tips


def _ends(point: Point, metric: MetricInfo) -> tuple[float, float]:
    return metric.within(point.interval.low, point.interval.high) if point.interval else (point.mean, point.mean)


def _words(point: Point, metric: MetricInfo) -> str:
    if not point.interval:
        return metric.words(point.mean)
    low, high = _ends(point, metric)
    interval = f"95 % interval {metric.number(low)} to {metric.number(high)}"
    return f"{metric.words(point.mean)}, {interval}, {point.interval.seeds} seeds"


def _label_x(axes: Axes, against: Against) -> None:
    if against == "round":
        axes.set_xlabel("round")
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
        return
    axes.set_xlabel("bytes sent by all clients")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1.0, 2.0, 5.0), numticks=6))
    axes.xaxis.set_major_formatter(lambda value, _: size(value))
    axes.xaxis.set_minor_formatter(lambda value, _: "")


def _listed(names: Sequence[str]) -> str:
    """Names in a sentence: a, b and c."""
    return " and ".join([*([", ".join(names[:-1])] if names[1:] else []), names[-1]])


def client_scores(groups: Sequence[Group]) -> Drawing | None:
    """Every client's score of its model at the end, a dot each; all seeds."""
    task = groups[0].runs[0].task
    metric = task.headline
    figure, (axes,) = new_figure(height=0.9 + 0.34 * len(groups))
    tips: dict[str, str] = {}
    left_out = 0
    for number, group in enumerate(groups):
        for run in group.runs:
            scored = run.last_scored()
            scores = [line for line in run.clients if line["round"] == scored and line["score"] is not None]
            shown = some(sorted(scores, key=lambda line: float(line["score"])), _MOST_DOTS)
            left_out += len(scores) - len(shown)
            for line in shown:
                gid = f"client{len(tips)}"
                height = number + 0.22 * _spread_of(f"{line['client']} {run.seed}")
                (dot,) = axes.plot([metric.factor * line["score"]], [height], key.MARKERS[number % len(key.MARKERS)])
                dot.set(gid=gid, markersize=4.5, alpha=0.6, markeredgewidth=0.0, color=PALETTE[number % len(PALETTE)])
                tips[gid] = (
                    f"client {line['client']}: {metric.words(line['score'])} of {line['score_examples']} test "
                    f"examples; {group.label}, seed {run.seed}, {line['examples']} training examples, "
                    f"rank {line['rank']}"
                )
    if not tips:
        return None
    _name_rows(axes, groups)
    if metric.format == "percent":
        axes.set_xlim(-2, 102)
    entries = []
    if task.chance is not None:
        axes.axvline(metric.factor * task.chance, **_CHANCE)
        entries.append(key.of_chance(metric.words(task.chance)))
    axes.set_xlabel(metric.title)
    remarks = [f"{left_out:,} clients have no dot: there are too many."] if left_out else []
    return Drawing(to_svg(figure, "clients", f"{metric.name} of every client", tips), entries, remarks)


def _spread_of(name: str) -> float:
    """A place in [-1, 1] that is the same for a client and seed in every row."""
    return (sum(ord(character) * (number + 7) for number, character in enumerate(name)) % 21) / 10 - 1


def traffic(groups: Sequence[Group]) -> Drawing | None:
    """Bytes of all clients over the whole run, by direction; None where nothing is sent."""
    figure, (axes,) = new_figure(height=1.0 + 0.34 * len(groups))
    tips: dict[str, str] = {}
    most = 0.0
    for number, group in enumerate(groups):
        offset = 0.0
        for direction, words, alpha in (("bytes_up", "up", 1.0), ("bytes_down", "down", 0.45)):
            total = statistics.fmean(sum(line[direction] for line in run.rounds) for run in group.runs)
            (bar,) = axes.barh([number], [total], left=offset, height=0.6, color=PALETTE[0], alpha=alpha)
            bar.set_gid(f"bar{number}-{direction}")
            tips[f"bar{number}-{direction}"] = f"{group.label}: {size(total)} {words}"
            offset += total
        most = max(most, offset)
    if not most:
        return None
    _name_rows(axes, groups)
    axes.xaxis.set_major_formatter(lambda value, _: size(value))
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
    axes.set_xlabel("bytes of all clients")
    entries = [key.of_bar("up, sent by clients", "dark"), key.of_bar("down, sent to clients", "light")]
    return Drawing(to_svg(figure, "traffic", "bytes by direction", tips), entries)


def _name_rows(axes: Axes, groups: Sequence[Group]) -> None:
    axes.set_yticks(range(len(groups)), [shortened(group.label, LONGEST_NAME) for group in groups])
    axes.set_ylim(len(groups) - 0.5, -0.5)
