# SPDX-License-Identifier: Apache-2.0
"""The figures of a report, each a function from runs to an `<svg>`."""

import math
import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence, Set, Sized
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from fedlora.report.read import Group, RunData
from fedlora.report.svg import PALETTE, new_figure, to_svg
from fedlora.report.tables import size
from fedlora.report.text import shortened

_MOST_CELLS = 4000
"""Of a map, so that each can have its value under the pointer. Of more clients, some are shown."""
_MOST_DOTS = 400
"""Clients of a run that get a dot each. Of more, some are shown."""
_LONGEST_NAME = 30
"""Characters of a name at an edge or in a legend; tips have more."""
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
    points = [(statistics.fmean(x for x, _ in own), [y for _, y in own]) for _, own in sorted(by_round.items())]
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
            own = [line for line in run.clients if line["round"] == scored and line["score"] is not None]
            for line in some(sorted(own, key=lambda line: float(line["score"])), _MOST_DOTS):
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
    axes.set_yticks(range(len(groups)), [shortened(group.label, _LONGEST_NAME) for group in groups])
    axes.set_ylim(len(groups) - 0.5, -0.5)
    if metric.format == "percent":
        axes.set_xlim(-2, 102)
    if task.chance is not None:
        axes.axvline(metric.factor * task.chance, **_CHANCE)
    axes.set_xlabel(f"on the client's own test part: {metric.title}")
    return to_svg(figure, "clients", title, tips)


def some(values: Sequence[Any], most: int) -> Sequence[Any]:
    """All values, or every so-manieth so that there are at most so many; the first is always among them."""
    return values[:: -(-len(values) // most)] if values else values


def _spread_of(client: str) -> float:
    """A place in [-1, 1] that is the same for a client in every row."""
    return (sum(ord(letter) * (number + 7) for number, letter in enumerate(client)) % 21) / 10 - 1


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
    axes.set_yticks(range(len(groups)), [shortened(group.label, _LONGEST_NAME) for group in groups])
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.xaxis.set_major_formatter(lambda value, _: size(value))
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
    axes.set_xlabel("dark: sent by clients; light: sent to clients")
    return to_svg(figure, "traffic", title, tips)


def label_map(run: RunData, title: str) -> str:
    """How many training examples of each label each client owns."""
    labels = run.split["labels"]
    all_clients = list(run.split["clients"])
    clients = some(all_clients, max(1, _MOST_CELLS // len(labels)))
    values = {
        (x, y): float(count)
        for y, client in enumerate(clients)
        for x, count in enumerate(run.split["clients"][client]["labels"])
        if count
    }
    names = {place: f"client {clients[place[1]]}, {labels[place[0]]}: {value:.0f}" for place, value in values.items()}
    return heat_map("labels", title, Cells(values, names, labels, clients, _across("label", clients, all_clients)))


def slot_map(run: RunData, side: str, title: str) -> str | None:
    """LoRA-A2's choices by layer and map: the mean number of chosen slots a client, in the side's last round."""
    chosen = _choices(run, side)
    modules = list(dict.fromkeys(module for own in chosen.values() for module in own))
    if not modules:
        return None
    places = {module: _place(module) for module in modules}
    layers = sorted({layer for layer, _ in places.values()})
    kinds = list(dict.fromkeys(kind for _, kind in sorted(places.values())))
    counts: Counter[tuple[int, str]] = Counter()
    for own in chosen.values():
        for module, slots in own.items():
            counts[places[module]] += len(slots)
    values = {(layers.index(layer), kinds.index(kind)): n / len(chosen) for (layer, kind), n in counts.items()}
    tips = {(x, y): f"layer {layers[x]}, {kinds[y]}: {value:.1f} slots a client" for (x, y), value in values.items()}
    return heat_map(f"slots-{side}", title, Cells(values, tips, [str(layer) for layer in layers], kinds, "layer"))


def overlap_map(run: RunData, side: str, title: str) -> str | None:
    """The Jaccard similarity of every two clients' chosen slots, in the side's last round."""
    chosen = {
        client: {(module, slot) for module, slots in own.items() for slot in slots}
        for client, own in _choices(run, side).items()
    }
    if len(chosen) < 2 or not any(chosen.values()):
        return None
    clients = some(sorted(chosen), math.isqrt(_MOST_CELLS))
    values, tips = {}, {}
    for y, one in enumerate(clients):
        for x, other in enumerate(clients):
            union = chosen[one] | chosen[other]
            values[x, y] = len(chosen[one] & chosen[other]) / len(union) if union else 0.0
            tips[x, y] = f"{one} and {other}: {100 * values[x, y]:.0f} % of their slots in common"
    return heat_map(
        f"overlap-{side}", title, Cells(values, tips, clients, clients, _across("client", clients, chosen), top=1.0)
    )


def _across(columns: str, shown: Sequence[str], all_clients: Sized) -> str:
    """What a map's columns are, and how many clients it leaves out."""
    if len(shown) == len(all_clients):
        return columns
    return f"{columns} ({len(shown)} of {len(all_clients):,} clients)"


def _choices(run: RunData, side: str) -> Mapping[str, Mapping[str, Set[int]]]:
    """Client -> module -> chosen slots, in the last round in which the side trained."""
    own = [line for line in run.clients if line["notes"].get("side") == side and line["status"] == "accepted"]
    last = max((line["round"] for line in own), default=None)
    known = run.environment.get("modules", ())
    return {line["client"]: _told_slots(line["notes"], known) for line in own if line["round"] == last}


def _told_slots(notes: Mapping[str, Any], known: Sequence[str]) -> Mapping[str, Set[int]]:
    """What a client says that it chose of the run's modules. It can say anything; what makes no sense is left out."""
    told = notes.get("slots")
    entries = {module: told[module] for module in known if module in told} if isinstance(told, Mapping) else {}
    return {m: set(own) for m, own in entries.items() if isinstance(own, list) and own and set(map(type, own)) == {int}}


def _place(module: str) -> tuple[int, str]:
    """The layer of a module's dotted name, and the map's name within the layer."""
    words = module.split(".")
    number = next((place for place, word in enumerate(words) if re.fullmatch("[0-9]{1,9}", word)), None)
    if number is None:
        return 0, module
    return int(words[number]), ".".join(words[number + 1 :])


@dataclass(frozen=True, slots=True)
class Cells:
    """A map of cells; those without a value stay empty."""

    values: Mapping[tuple[int, int], float]
    """(column, row) -> value."""
    tips: Mapping[tuple[int, int], str]
    columns: Sequence[str]
    rows: Sequence[str]
    across: str
    """What the columns are."""
    top: float | None = None
    """The value of a full cell; None: the highest there is."""


def heat_map(name: str, title: str, cells: Cells) -> str:
    """The map drawn, the fuller a cell the higher its value."""
    figure, (axes,) = new_figure(height=1.1 + min(0.26 * len(cells.rows), 5.0))
    axes.grid(visible=False)
    highest = cells.top or max(cells.values.values(), default=1.0)
    told: dict[str, str] = {}
    for (x, y), value in cells.values.items():
        fullness = min(1.0, 0.08 + 0.92 * value / highest)
        cell = Rectangle((x - 0.5, y - 0.5), 1, 1, color=PALETTE[0], alpha=fullness, linewidth=0)
        axes.add_patch(cell)
        cell.set_gid(f"cell{x}-{y}")
        told[f"cell{x}-{y}"] = cells.tips[x, y]
    axes.set_xlim(-0.5, len(cells.columns) - 0.5)
    axes.set_ylim(len(cells.rows) - 0.5, -0.5)
    _names(axes, cells.columns, cells.rows)
    axes.set_xlabel(cells.across)
    return to_svg(figure, name, title, told)


def _names(axes: Axes, columns: Sequence[str], rows: Sequence[str]) -> None:
    """Names at the edges where there is room for them."""
    columns, rows = ([shortened(name, _LONGEST_NAME) for name in names] for names in (columns, rows))
    if len(columns) <= 26 and max(map(len, columns)) <= 24:
        slanted = max(map(len, columns)) > 3
        turned: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
        axes.set_xticks(range(len(columns)), columns, **turned)
    else:
        axes.set_xticks([])
    if len(rows) <= 40:
        axes.set_yticks(range(len(rows)), rows)
    else:
        axes.set_yticks([])


def _legend(axes: Axes, lines: Mapping[str, Line2D]) -> None:
    names = [shortened(name, _LONGEST_NAME) for name in lines]
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
