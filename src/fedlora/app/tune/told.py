# SPDX-License-Identifier: Apache-2.0
"""What a race found, in words: the table, and one sentence of how sure it is."""

from collections.abc import Mapping
from typing import Any

from fedlora.app.tune.found import TOO_FEW
from fedlora.report.tables import counted, size
from fedlora.report.task import MetricInfo, read_task

Found = Mapping[str, Any]


def sentence(found: Found) -> str:
    """How sure the choice is.

    Args:
        found: the contents of `results.json`.
    """
    winner, runner_up, comparison = found["winner"], found["runner_up"], found["comparison"]
    if runner_up is None:
        return f"{winner['label']} is the only candidate that came through."
    if comparison is None:
        return f"{winner['label']} was best, before {runner_up['label']}; {TOO_FEW}"
    metric = _metric(found)
    gap = f"{points(comparison['difference'], metric)} ({_interval(comparison, metric)})"
    if comparison["verdict"] == "tied" and metric.format == "percent" and comparison["detectable"] >= 1.0:
        return f"{winner['label']} is tied with {runner_up['label']}: {gap}; so few draws can tell nothing apart."
    if comparison["verdict"] == "tied":
        return (
            f"{winner['label']} is tied with {runner_up['label']}: {gap}; draws like these would show a difference of "
            f"{_width(comparison['detectable'], metric)}."
        )
    return f"{winner['label']} is better than {runner_up['label']}: {gap}."


def table(found: Found) -> list[str]:
    """Winner, runner-up, their difference, and how they were found, in lines."""
    metric, after = _metric(found), found["judged_after"]
    lines = [
        f"winner       {_line(found['winner'], metric)}",
        f"runner-up    {_line(found['runner_up'], metric) if found['runner_up'] else 'none'}",
    ]
    if found["comparison"] is not None:
        comparison = found["comparison"]
        lines.append(f"difference   {points(comparison['difference'], metric)}, {_interval(comparison, metric)}")
    rounds = f"{after['rounds']} of {found['asked']['rounds']} rounds"
    lines += [
        f"judged by    the {found['asked']['judge']} {metric.name} on validation parts, after {rounds}, mean of "
        f"{counted(len(after['draws']), 'draw')}",
        f"run          {counted(found['trials'], 'trial')} on {counted(len(found['rungs']), 'rung')}; planned were "
        f"{counted(len(found['planned']['rungs']), 'rung')}",
    ]
    if found["at_an_edge"]:
        lines.append(
            f"note         the winner's rate is the {found['at_an_edge']} that was tried: others may be better (--lr)"
        )
    return lines + [f"note         {note}" for note in found["notes"]]


def points(difference: float, metric: MetricInfo) -> str:
    """A difference of scores, with its sign: `+2.3 points` of a share."""
    return f"{metric.factor * difference:+.{1 if metric.format == 'percent' else 3}f}{_unit(metric)}"


def _metric(found: Found) -> MetricInfo:
    return read_task(found).headline


def _line(one: Mapping[str, Any], metric: MetricInfo) -> str:
    return f"{one['label']}: {metric.words(one['score'])}, {size(one['bytes_up'] + one['bytes_down'])} up and down"


def _interval(comparison: Mapping[str, Any], metric: MetricInfo) -> str:
    low, high = (f"{metric.factor * comparison[end]:+.{_digits(metric)}f}" for end in ("low", "high"))
    return f"95 % interval {low} to {high}, {counted(comparison['draws'], 'draw')}"


def _width(value: float, metric: MetricInfo) -> str:
    return f"{metric.factor * value:.{_digits(metric)}f}{_unit(metric)}"


def _digits(metric: MetricInfo) -> int:
    return 1 if metric.format == "percent" else 3


def _unit(metric: MetricInfo) -> str:
    return " points" if metric.format == "percent" else ""
