# SPDX-License-Identifier: Apache-2.0
"""Reading the files of a run folder: what is damaged is told by one sentence, whoever reads it."""

import json
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any

from fedlora.errors import RunFolderError

Reader = Callable[[bytes], Any]
"""Makes a tree of JSON; raises ValueError or RecursionError where it cannot."""


@dataclass(frozen=True, slots=True)
class Each:
    """The shape of a list, or of an object of any keys, whose values all have one shape."""

    kind: type
    """list or dict."""
    shape: "Shape"


Shape = type | UnionType | Each | Mapping[str, "Shape"]
"""What a tree must be: of a type, an object with at least these keys and their shapes, or `Each`."""
_OBJECT: Shape = {}


def read_lines(path: Path, shape: Shape = _OBJECT, reader: Reader = json.loads) -> list[dict[str, Any]]:
    """Every whole line of a JSON lines file; a last line without its end is left out.

    Args:
        path: a file that is not there has no lines.
        shape: of every line.
        reader: of a line.

    Raises:
        RunFolderError: the file cannot be read, or a line is damaged.
    """
    if not path.exists():
        return []
    whole, _, _ = _bytes(path).rpartition(b"\n")
    lines = enumerate(whole.splitlines(), start=1)
    return [parsed(path, line, shape, f"line {number}", reader) for number, line in lines]


def read_object(path: Path, shape: Shape = _OBJECT, reader: Reader = json.loads) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        RunFolderError: it cannot be read, or is damaged.
    """
    return parsed(path, _bytes(path), shape, "it", reader)


def read_toml(path: Path) -> dict[str, Any]:
    """The tree of a TOML file.

    Raises:
        RunFolderError: it cannot be read, or is damaged.
    """
    try:
        return tomllib.loads(_bytes(path).decode())
    except (ValueError, RecursionError) as error:  # RecursionError: nested too deeply; ValueError: all else
        raise damaged(path, "it is no TOML") from error


def parsed(path: Path, data: bytes, shape: Shape, what: str, reader: Reader = json.loads) -> dict[str, Any]:
    """A JSON object, with every way in which it can be damaged told as one.

    Args:
        path: of the file.
        data: all of it, or one of its lines.
        shape: what the object must have at least.
        what: what `data` is, for the sentence.
        reader: of `data`.

    Raises:
        RunFolderError: it is no JSON object, or not of the shape.
    """
    try:
        tree = reader(data)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"{what} is no JSON") from error
    if not isinstance(tree, dict):
        raise damaged(path, f"{what} is no JSON object")
    require_shape(path, tree, shape, what)
    return tree


def require_shape(path: Path, tree: object, shape: Shape, what: str = "it") -> None:
    """Refuse a tree that has not the shape.

    Args:
        path: of the file.
        tree: what stands in it.
        shape: what it must be at least.
        what: the tree, in a sentence: it, or a line of it.

    Raises:
        RunFolderError: the sentence says where they differ.
    """
    place = _misfit(tree, shape, "")
    if place is not None:
        raise damaged(path, f"{what} says nothing usable under {place.lstrip('.')!r}")


def damaged(path: Path, what: str) -> RunFolderError:
    """The error about a file of a run folder that is not as it was written."""
    return RunFolderError(
        f"{path} is damaged ({what}): put it back from a copy, or start the run anew in another folder."
    )


def _misfit(tree: object, shape: Shape, place: str) -> str | None:
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


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise damaged(path, f"it cannot be read: {error.strerror}") from error
