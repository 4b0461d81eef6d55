# SPDX-License-Identifier: Apache-2.0
"""Curves over rounds, as numbers: the mean over seeds at every round, and which curves lie on one another."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from fedlora.report.intervals import Interval, over_seeds
from fedlora.report.read import Group, Line

Against = Literal["round", "bytes_up"]
"""The horizontal axis: the round, or all bytes that all clients have sent up to then."""
Value = Callable[[Line], float | None]
"""What a curve shows of a line of `rounds.jsonl`; None where the line does not tell."""

_SAME = 0.004
"""Curves that differ by less than this share of the figure's height cannot be told apart: a line is thicker."""


@dataclass(frozen=True, slots=True)
class Point:
    """One round of a curve."""

    x: float
    mean: float
    interval: Interval | None
    """None with a single seed."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A group's curve."""

    number: int
    """The group's place, which chooses colour and marker."""
    label: str
    points: Sequence[Point]

    @property
    def has_interval(self) -> bool:
        """Whether some point is a mean over several seeds."""
        return any(point.interval for point in self.points)


def curves(groups: Sequence[Group], value: Value, against: Against) -> list[Curve]:
    """The curves of those groups that have a point to show."""
    found = [Curve(number, group.label, _points(group, value, against)) for number, group in enumerate(groups)]
    return [curve for curve in found if curve.points]


def _points(group: Group, value: Value, against: Against) -> list[Point]:
    """A point a round that some seed tells of; on an axis of bytes, from the first byte on."""
    by_round: dict[int, list[tuple[float, float]]] = {}
    for run in group.runs:
        sent = 0.0
        for line in run.rounds:
            sent += line["bytes_up"]
            told = value(line)
            if told is not None:
                x = sent if against == "bytes_up" else float(line["round"])
                by_round.setdefault(line["round"], []).append((x, told))
    points = []
    for _, pairs in sorted(by_round.items()):
        x, values = statistics.fmean(at for at, _ in pairs), [told for _, told in pairs]
        points.append(Point(x, statistics.fmean(values), over_seeds(values)))
    return [point for point in points if against == "round" or point.x > 0]


def coinciding(drawn: Sequence[Curve]) -> list[list[Curve]]:
    """The curves in sets; those of one set lie on one another everywhere, so that only one of them would be seen."""
    means = [point.mean for curve in drawn for point in curve.points]
    allowed = _SAME * (max(means) - min(means)) if means else 0.0
    sets: list[list[Curve]] = []
    for curve in drawn:
        place = next((found for found in sets if _same(found[0], curve, allowed)), None)
        if place is None:
            sets.append([curve])
        else:
            place.append(curve)
    return sets


def _same(one: Curve, other: Curve, allowed: float) -> bool:
    return len(one.points) == len(other.points) and all(
        abs(left.mean - right.mean) <= allowed and abs(left.x - right.x) <= _SAME * max(left.x, right.x)
        for left, right in zip(one.points, other.points, strict=True)
    )
