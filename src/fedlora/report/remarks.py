# SPDX-License-Identifier: Apache-2.0
"""What a reader should know of the numbers before reading them: each remark is a sentence or two above the table."""

import statistics
from collections.abc import Sequence

from fedlora.report.curves import curves
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
    """A sentence for every method whose training loss does not fall, or rises in the end."""
    told = []
    for curve in curves(groups, lambda line: line.get("loss"), "round"):
        losses = [point.mean for point in curve.points]
        if len(losses) < _FEWEST_ROUNDS or losses[0] < _LEARNT:
            continue
        quarter = max(1, len(losses) // 4)
        first, last = losses[0], statistics.fmean(losses[-quarter:])
        lowest = min(range(len(losses)), key=losses.__getitem__)
        values = f"{first:.3f} in round {curve.points[0].x:.0f}, {last:.3f} at the end"
        if last > first * (1 + _FLAT):
            told.append(f"{curve.label}: the training loss rises ({values}). Try a lower train.lr.")
        elif last > first * (1 - _FLAT):
            told.append(f"{curve.label}: the training loss is flat ({values}). Try a higher train.lr, or more rounds.")
        elif last - losses[lowest] > (first - losses[lowest]) / 4:
            told.append(
                f"{curve.label}: the training loss rises again after round {curve.points[lowest].x:.0f} "
                f"({losses[lowest]:.3f} there, {last:.3f} at the end). Try a lower train.lr, or fewer rounds."
            )
    return told
