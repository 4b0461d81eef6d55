# SPDX-License-Identifier: Apache-2.0
"""What a reader should know of the numbers before reading them: each remark is a sentence or two above the table."""

import statistics
from collections.abc import Sequence

from fedlora.report.curves import Point, curves
from fedlora.report.read import Group, RunData
from fedlora.report.text import shortened

_LONGEST_NAME = 80
"""Characters of a client's name."""
_FEWEST_ROUNDS = 4
"""Of fewer rounds no trend is told."""
_FLAT = 0.02
"""A loss that has moved by less than this share has not moved."""
_LEARNT = 0.02
"""A loss this small at the start has nowhere to fall."""
_RISES, _STAYS = "The training loss rises", "The training loss hardly moves"
_RISES_AGAIN = "The training loss rises again"
_ADVICE = {
    _RISES: "Try a lower train.lr.",
    _STAYS: "Try another train.lr, higher first, or more rounds.",
    _RISES_AGAIN: "Try a lower train.lr, or fewer rounds.",
}


def remarks(runs: Sequence[RunData], groups: Sequence[Group]) -> list[str]:
    """All that apply, the gravest first."""
    return [*_generated(runs), *_loss_trends(groups), *_left_out(runs[0])]


def _generated(runs: Sequence[RunData]) -> list[str]:
    generated = any(run.config["data"]["source"] == "generated" and not run.deployed for run in runs)
    return ["The data are generated: these numbers say nothing about real text."] if generated else []


def _left_out(run: RunData) -> list[str]:
    names = [shortened(client, _LONGEST_NAME) for client in run.split["left_out_clients"]]
    return [f"Left out, without any training example: {', '.join(names)}."] if names else []


def _loss_trends(groups: Sequence[Group]) -> list[str]:
    """A remark for each way in which training losses do not fall, with the methods that it is true of."""
    told: dict[str, list[str]] = {}
    for curve in curves(groups, lambda line: line.get("loss"), "round"):
        trend = _trend(curve.points)
        if trend:
            told.setdefault(trend[0], []).append(f"{curve.label} ({trend[1]})")
    return [f"{what}: {', '.join(methods)}. {_ADVICE[what]}" for what, methods in told.items()]


def _trend(points: Sequence[Point]) -> tuple[str, str] | None:
    """What a loss does, if it is a reason for a remark, and the losses that show it."""
    losses = [point.mean for point in points]
    if len(losses) < _FEWEST_ROUNDS or losses[0] < _LEARNT:
        return None
    first, last = losses[0], statistics.fmean(losses[-max(1, len(losses) // 4) :])
    values = f"{first:.3f} in round {points[0].x:.0f}, {last:.3f} at the end"
    if last > first * (1 + _FLAT):
        return _RISES, values
    if last > first * (1 - _FLAT):
        return _STAYS, values
    lowest = min(points, key=lambda point: point.mean)
    if last - lowest.mean > (first - lowest.mean) / 4:
        return _RISES_AGAIN, f"{lowest.mean:.3f} in round {lowest.x:.0f}, {last:.3f} at the end"
    return None
