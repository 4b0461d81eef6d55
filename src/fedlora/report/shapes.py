# SPDX-License-Identifier: Apache-2.0
"""What the files of a run folder must hold for pages and tables: where one does not, it is damaged."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedlora.run_files import Each, Shape, require_shape

_NUMBER = int | float
_SCORES: Mapping[str, Shape] = {"round": int, "global": dict | None, "personal": dict | None}
ROUND: Shape = {**_SCORES, "bytes_up": int, "bytes_down": int, "parameters_up": int}
CLIENT: Shape = {
    "round": int,
    "client": str,
    "examples": int,
    "rank": int,
    "status": str,
    "score": int | float | None,
    "score_examples": int,
    "notes": dict,
}
SPLIT: Shape = {"labels": Each(list, str), "clients": Each(dict, {"labels": Each(list, int)}), "left_out_clients": list}
ENVIRONMENT: Shape = {
    "python": str,
    "platform": str,
    "threads": int,
    "scale": _NUMBER,
    "kind": str,
    "modules": Each(list, str),
    "base": str,
    "packages": dict,
}
CONFIG: Shape = {
    "run": {"seed": int},
    "method": {"name": str},
    "data": {"source": str},
    "split": {"kind": str, "alpha": _NUMBER},
    "adapter": {"head": str},
}
_NUMBERS = Each(dict, _NUMBER)
_SPREAD: Shape = dict.fromkeys(("mean", "weighted_mean", "worst_tenth", "count"), _NUMBER)


_ENDS = Each(list, _NUMBER)
_INTERVALS: Mapping[str, Shape] = {
    **dict.fromkeys(("global", "personal"), Each(dict, _ENDS)),
    **dict.fromkeys(("over_clients", "unseen_clients"), Each(dict, Each(dict, _ENDS))),
}


def require_intervals(path: Path, summary: Mapping[str, Any]) -> None:
    """Refuse a summary whose intervals are no lists of numbers; it may have none."""
    told = summary.get("intervals", {})
    require_shape(path, told, Each(dict, dict), "intervals")
    for part, shape in _INTERVALS.items():
        require_shape(path, told.get(part, {}), shape, f"intervals, {part}")


def require_scores(path: Path, line: Mapping[str, Any], what: str) -> None:
    """Refuse a round whose scores are no numbers; None is a score that was not taken."""
    for part in ("global", "personal"):
        if line[part] is not None:
            require_shape(path, line[part], _NUMBERS, f"{what}, {part}")
    for part in ("over_clients", "unseen_clients"):
        if part in line:
            require_shape(path, line[part], Each(dict, _SPREAD), f"{what}, {part}")
