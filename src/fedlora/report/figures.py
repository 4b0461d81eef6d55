# SPDX-License-Identifier: Apache-2.0
"""The figures of a report, each a function from runs to an `<svg>`."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from fedlora.report.read import Group
from fedlora.report.svg import PALETTE, new_figure, to_svg
from fedlora.report.tables import size
from fedlora.report.text import LONGEST_NAME, shortened, some

_MOST_DOTS = 400
"""Clients of a run that get a dot each. Of more, some are shown."""
_DASHES = ("-", "--", ":")
_CHANCE: Mapping[str, Any] = {"color": "#8a8a8a", "linestyle": (0, (1, 3)), "linewidth": 1.0, "zorder": 0}
"""The line at the score of a model that guesses."""


def score_curves(groups: Sequence[Group], part: str, key: str, against: str, title: str) -> str | None:
    """The task's headline after every scored round, the mean over seeds with a band from lowest to highest.

    Args:
        groups: one line each.
        part: `global` or `personal`.
        key: of that part.
        against: `round`, or `bytes_up` for all bytes sent up to then, on a logarithmic axis.
        title: what it shows.
    """
    figure, (axes,) = new_figure()
    tips: dict[str, str] = {}
    lines: dict[str, Line2D] = {}
    task = groups[0].runs[0].task
    metric = task.headline
    for number, group in enumerate(groups):
        points = _curve(group, part, key, against)
        if not points:
            continue
        x, y = [at for at, _ in points], [metric.factor * statistics.fmean(values) for _, values in points]
        colour, dash = PALETTE[number % len(PALETTE)], _DASHES[number // len(PALETTE) % len(_DASHES)]
        (lines[group.label],) = axes.plot(x, y, color=colour, linestyle=dash, linewidth=1.4)
        if any(len(values) > 1 for _, values in points):
            low, high = ([metric.factor * end(values) for _, values in points] for end in (min, max))
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        for place, (at, height) in enumerate(zip(x, y, strict=True)):
            (dot,) = axes.plot([at], [height], marker="o", markersize=3.2, color=colour)
            dot.set_gid(f"dot{number}-{place}")
            where = f"{size(at)} sent" if against == "bytes_up" else f"round {at:.0f}"
            tips[f"dot{number}-{place}"] = f"{group.label}, {where}: {metric.words(height / metric.factor)}"
    if not tips:
        return None
    if task.chance is not None:
        axes.axhline(metric.factor * task.chance, **_CHANCE)
    axes.set_ylabel(metric.title)
    axes.set_xlabel("bytes sent by all clients" if against == "bytes_up" else "round")
    if against == "round":
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    if against == "bytes_up":
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
        axes.xaxis.set_major_formatter(lambda value, _: size(value))
        axes.xaxis.set_minor_formatter(lambda value, _: "")
    _legend(axes, lines)
    return to_svg(figure, f"{part}-{against}", title, tips)


def _curve(group: Group, part: str, key: str, against: str) -> list[tuple[float, list[float]]]:
    """(x, the scores of all seeds that have come so far) of every scored round."""
    by_round: dict[int, list[tuple[float, float]]] = {}
    for run in group.runs:
        sent = 0.0
        for line in run.rounds:
            sent += line["bytes_up"]
            if line[part] and key in line[part]:
                x = sent if against == "bytes_up" else float(line["round"])
                by_round.setdefault(line["round"], []).append((x, line[part][key]))
    rounds = [pairs for _, pairs in sorted(by_round.items())]
    points = [(statistics.fmean(x for x, _ in pairs), [y for _, y in pairs]) for pairs in rounds]
    return [point for point in points if against == "round" or point[0] > 0]


def client_scores(groups: Sequence[Group], title: str) -> str | None:
    """Every client's score of its model at the end, a dot each; all seeds."""
    task = groups[0].runs[0].task
    metric = task.headline
    figure, (axes,) = new_figure(height=0.9 + 0.34 * len(groups))
    tips: dict[str, str] = {}
    for number, group in enumerate(groups):
        for run in group.runs:
            scored = run.last_scored()
            scores = [line for line in run.clients if line["round"] == scored and line["score"] is not None]
            for line in some(sorted(scores, key=lambda line: float(line["score"])), _MOST_DOTS):
                gid = f"client{len(tips)}"
                height = number + 0.22 * _spread_of(line["client"])
                (dot,) = axes.plot(
                    [metric.factor * line["score"]],
                    [height],
                    "o",
                    markersize=4,
                    alpha=0.55,
                    color=PALETTE[number % len(PALETTE)],
                )
                dot.set_gid(gid)
                tips[gid] = (
                    f"{group.label}, client {line['client']}, seed {run.seed}: {metric.words(line['score'])} of "
                    f"{line['score_examples']}; trains on {line['examples']}, rank {line['rank']}"
                )
    if not tips:
        return None
    axes.set_yticks(range(len(groups)), [shortened(group.label, LONGEST_NAME) for group in groups])
    axes.set_ylim(len(groups) - 0.5, -0.5)
    if metric.format == "percent":
        axes.set_xlim(-2, 102)
    if task.chance is not None:
        axes.axvline(metric.factor * task.chance, **_CHANCE)
    axes.set_xlabel(f"on the client's own test part: {metric.title}")
    return to_svg(figure, "clients", title, tips)


def _spread_of(client: str) -> float:
    """A place in [-1, 1] that is the same for a client in every row."""
    return (sum(ord(character) * (number + 7) for number, character in enumerate(client)) % 21) / 10 - 1


def traffic(groups: Sequence[Group], title: str) -> str:
    """Bytes of all clients over the whole run, by direction."""
    figure, (axes,) = new_figure(height=1.0 + 0.34 * len(groups))
    tips: dict[str, str] = {}
    for number, group in enumerate(groups):
        offset = 0.0
        for key, words, alpha in (("bytes_up", "up", 0.95), ("bytes_down", "down", 0.45)):
            total = statistics.fmean(sum(line[key] for line in run.rounds) for run in group.runs)
            (bar,) = axes.barh([number], [total], left=offset, height=0.6, color=PALETTE[0], alpha=alpha)
            bar.set_gid(f"bar{number}-{key}")
            tips[f"bar{number}-{key}"] = f"{group.label}: {size(total)} {words}"
            offset += total
    axes.set_yticks(range(len(groups)), [shortened(group.label, LONGEST_NAME) for group in groups])
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.xaxis.set_major_formatter(lambda value, _: size(value))
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
    axes.set_xlabel("dark: sent by clients; light: sent to clients")
    return to_svg(figure, "traffic", title, tips)


def _legend(axes: Axes, lines: Mapping[str, Line2D]) -> None:
    names = [shortened(name, LONGEST_NAME) for name in lines]
    axes.legend(
        list(lines.values()),
        names,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.18),
        ncols=3 if max(map(len, names)) <= 16 else 2,
        fontsize=8,
        handlelength=1.6,
        frameon=False,
    )
