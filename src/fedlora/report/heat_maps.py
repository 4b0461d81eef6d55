# SPDX-License-Identifier: Apache-2.0
"""Maps of cells, each a function from a run to an `<svg>`: who owns what, and which slots LoRA-A2 chose."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence, Set, Sized
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from fedlora.report.read import RunData
from fedlora.report.svg import PALETTE, new_figure, to_svg
from fedlora.report.text import LONGEST_NAME, shortened, some

_MOST_CELLS = 4000
"""Of a map, so that each can have its value under the pointer. Of more clients, some are shown."""
_LONGEST_SLANTED = 24
"""Characters of a name below a map."""
_MOST_SLANTED = 12
"""Names below a map; of more each stands upright, in smaller letters."""


def label_map(run: RunData, title: str) -> str | None:
    """How many training examples of each label or kind each client owns; None where examples have neither."""
    word, labels = run.labels
    if not labels:
        return None
    all_clients = list(run.split["clients"])
    clients = some(all_clients, max(1, _MOST_CELLS // len(labels)))
    values = {
        (x, y): float(count)
        for y, client in enumerate(clients)
        for x, count in enumerate(run.split["clients"][client]["labels"])
        if count
    }
    names = {place: f"client {clients[place[1]]}, {labels[place[0]]}: {value:.0f}" for place, value in values.items()}
    return heat_map("labels", title, Cells(values, names, labels, clients, _across(word, clients, all_clients)))


def slot_map(run: RunData, side: str, title: str) -> str | None:
    """LoRA-A2's choices by layer and map: the mean number of chosen slots a client, in the side's last round."""
    chosen = _choices(run, side)
    modules = list(dict.fromkeys(module for slots_of in chosen.values() for module in slots_of))
    if not modules:
        return None
    places = {module: _place(module) for module in modules}
    layers = sorted({layer for layer, _ in places.values()})
    kinds = list(dict.fromkeys(kind for _, kind in sorted(places.values())))
    counts: Counter[tuple[int, str]] = Counter()
    for slots_of in chosen.values():
        for module, slots in slots_of.items():
            counts[places[module]] += len(slots)
    values = {(layers.index(layer), kinds.index(kind)): n / len(chosen) for (layer, kind), n in counts.items()}
    tips = {(x, y): f"layer {layers[x]}, {kinds[y]}: {value:.1f} slots a client" for (x, y), value in values.items()}
    return heat_map(f"slots-{side}", title, Cells(values, tips, [str(layer) for layer in layers], kinds, "layer"))


def overlap_map(run: RunData, side: str, title: str) -> str | None:
    """The Jaccard similarity of every two clients' chosen slots, in the side's last round."""
    chosen = {
        client: {(module, slot) for module, slots in slots_of.items() for slot in slots}
        for client, slots_of in _choices(run, side).items()
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
    lines = [line for line in run.clients if line["notes"].get("side") == side and line["status"] == "accepted"]
    last = max((line["round"] for line in lines), default=None)
    known = run.environment.get("modules", ())
    return {line["client"]: _told_slots(line["notes"], known) for line in lines if line["round"] == last}


def _told_slots(notes: Mapping[str, Any], known: Sequence[str]) -> Mapping[str, Set[int]]:
    """What a client says that it chose of the run's modules. It can say anything; what makes no sense is left out."""
    told = notes.get("slots")
    entries = {module: told[module] for module in known if module in told} if isinstance(told, Mapping) else {}
    return {module: set(slots) for module, slots in entries.items() if _are_numbers(slots)}


def _are_numbers(slots: object) -> bool:
    return isinstance(slots, list) and set(map(type, slots)) == {int}


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
    """The map drawn, the fuller a cell the higher its value. Runs of a comparison share maps; each is drawn once."""
    return _drawn(
        name,
        title,
        values=tuple((place, value, cells.tips[place]) for place, value in cells.values.items()),
        columns=tuple(cells.columns),
        rows=tuple(cells.rows),
        across=cells.across,
        top=cells.top,
    )


@lru_cache(maxsize=16)
def _drawn(
    name: str,
    title: str,
    *,
    values: tuple[tuple[tuple[int, int], float, str], ...],
    columns: tuple[str, ...],
    rows: tuple[str, ...],
    across: str,
    top: float | None,
) -> str:
    """The map of cells, each with its place, value and tip."""
    below = _below(columns)
    slanted = 0.06 * max(0, max(map(len, below), default=0) - 8)  # inches that long names take from the map
    figure, (axes,) = new_figure(height=1.1 + slanted + min(0.26 * len(rows), 5.0))
    axes.grid(visible=False)
    highest = top or max((value for _, value, _ in values), default=1.0)
    told: dict[str, str] = {}
    for (x, y), value, tip in values:
        fullness = min(1.0, 0.08 + 0.92 * value / highest)
        cell = Rectangle((x - 0.5, y - 0.5), 1, 1, color=PALETTE[0], alpha=fullness, linewidth=0)
        axes.add_artist(cell)  # not `add_patch`, which looks for its limits: they are set below
        cell.set_gid(f"cell{x}-{y}")
        cell.set_in_layout(False)  # it lies within the axes
        told[f"cell{x}-{y}"] = tip
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    _names(axes, below, rows)
    axes.set_xlabel(across)
    return to_svg(figure, name, title, told)


def _below(columns: Sequence[str]) -> list[str]:
    """The names below a map; none where there are too many."""
    return [shortened(name, _LONGEST_SLANTED) for name in columns] if len(columns) <= 26 else []


def _names(axes: Axes, columns: Sequence[str], rows: Sequence[str]) -> None:
    """Names at the edges where there is room for them."""
    if columns:
        turned: dict[str, Any] = {}
        if len(columns) > _MOST_SLANTED:
            turned = {"rotation": 90, "fontsize": 7.5}
        elif max(map(len, columns)) > 3:
            turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(range(len(columns)), columns, **turned)
    else:
        axes.set_xticks([])
    if len(rows) <= 40:
        axes.set_yticks(range(len(rows)), [shortened(name, LONGEST_NAME) for name in rows])
    else:
        axes.set_yticks([])
