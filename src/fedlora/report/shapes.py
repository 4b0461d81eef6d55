# SPDX-License-Identifier: Apache-2.0
"""What the files of a run folder must hold for pages and tables: where one does not, it is damaged."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlora.errors import RunFolderError


@dataclass(frozen=True, slots=True)
class Each:
    """A list, or an object of any keys, whose values all have one shape."""

    kind: type
    """list or dict."""
    shape: Any


_NUMBER = int | float
_SCORES = {"round": int, "global": dict | None, "personal": dict | None}
ROUND = {**_SCORES, "bytes_up": int, "bytes_down": int, "parameters_up": int}
CLIENT = {
    "round": int,
    "client": str,
    "examples": int,
    "rank": int,
    "status": str,
    "score": int | float | None,
    "score_examples": int,
    "notes": dict,
}
SPLIT = {"labels": Each(list, str), "clients": Each(dict, {"labels": Each(list, int)}), "left_out_clients": list}
ENVIRONMENT = {
    "python": str,
    "platform": str,
    "threads": int,
    "scale": _NUMBER,
    "kind": str,
    "modules": Each(list, str),
    "base": str,
    "packages": dict,
}
CONFIG = {
    "run": {"seed": int},
    "method": {"name": str},
    "data": {"source": str},
    "split": {"kind": str, "alpha": _NUMBER},
    "adapter": {"head": str},
}
_NUMBERS = Each(dict, _NUMBER)
_SPREAD = dict.fromkeys(("mean", "weighted_mean", "worst_tenth", "count"), _NUMBER)


def require_shape(path: Path, tree: Any, shape: Any, what: str = "it") -> Any:
    """The tree, if it has the shape.

    Args:
        path: of the file.
        tree: what stands in it.
        shape: a type, keys with their shapes, or `Each`.
        what: the tree, in a sentence: it, or a line of it.

    Raises:
        RunFolderError: it has not; the sentence says where.
    """
    place = _misfit(tree, shape, "")
    if place is not None:
        raise damaged(
            path, f"{what} says nothing usable under {place.lstrip('.')!r}" if place else f"{what} is no object"
        )
    return tree


def require_scores(path: Path, line: Mapping[str, Any], what: str) -> None:
    """Refuse a round whose scores are no numbers; None is a score that was not taken."""
    for part in ("global", "personal"):
        if line[part] is not None:
            require_shape(path, line[part], _NUMBERS, f"{what}, {part}")
    for part in ("over_clients", "unseen_clients"):
        if part in line:
            require_shape(path, line[part], Each(dict, _SPREAD), f"{what}, {part}")


def damaged(path: Path, what: str) -> RunFolderError:
    """The error about a file of a run folder that is not as it was written."""
    return RunFolderError(f"{path} is damaged ({what}): put it back from a copy, or leave this run out.")


def _misfit(tree: Any, shape: Any, place: str) -> str | None:
    """Where a tree differs from its shape, as a dotted key; None: nowhere."""
    if isinstance(shape, Each):
        if not isinstance(tree, list | dict) or not isinstance(tree, shape.kind):
            return place
        pairs: Iterable[tuple[Any, Any]] = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return next((wrong for key, value in pairs if (wrong := _misfit(value, shape.shape, f"{place}.{key}"))), None)
    if isinstance(shape, Mapping):
        if not isinstance(tree, dict):
            return place
        wrongs = (_misfit(tree.get(key), inner, f"{place}.{key}") for key, inner in shape.items())
        return next((wrong for wrong in wrongs if wrong is not None), None)
    return None if isinstance(tree, shape) and not isinstance(tree, bool) else place
