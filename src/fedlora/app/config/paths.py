# SPDX-License-Identifier: Apache-2.0
"""Where the paths of a config lead: each is seen from the folder of whoever wrote it, and made absolute.

A file's paths are seen from the file's folder, those of `--set` and of Python from the working directory. Names of a
hub look like relative paths; a name is a path if it leads to something there, or if it begins like a path.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_NO_PATHS = ("generated", "python")
"""What bases are called that need no files."""
_STARTS = ("./", "../", "~", "/", ".\\", "..\\")


def absolute(name: str, folder: Path) -> str:
    """A path as seen from a folder; `~` is the home folder."""
    return os.path.abspath(folder / Path(name).expanduser())


def seen_from(path: Path, folder: Path) -> Path:
    """A path as it is written in a file of a folder: an absolute one as it is, another one from there."""
    return path if path.is_absolute() else Path(os.path.relpath(path, folder))


def is_path(name: str) -> bool:
    """Whether a name is a path by its looks: `./`, `../`, `~` or absolute. A hub's names begin otherwise."""
    return name in {".", ".."} or name.startswith(_STARTS) or Path(name).is_absolute()


def path_or_name(name: str, folder: Path) -> str:
    """A path made absolute, or a hub's name as it is."""
    if name in _NO_PATHS:
        return name
    there = absolute(name, folder)
    return there if is_path(name) or Path(there).exists() else name


def class_name(name: str, folder: Path) -> str:
    """`path/to/file.py:Class` with its path made absolute; a built-in name as it is."""
    file, colon, kind = name.rpartition(":")
    return f"{absolute(file, folder)}:{kind}" if colon else name


def short_class_name(name: str) -> str:
    """`file.py:Class` without its folder, for records and cards; a built-in name as it is."""
    file, colon, kind = name.rpartition(":")
    return f"{Path(file).name}:{kind}" if colon else name


def with_absolute_paths(tree: Mapping[str, Any], folder: Path, source: object) -> dict[str, Any]:
    """Nested mappings of a config with every path in them made absolute. What is no text is left for the checks.

    Args:
        tree: as TOML has it.
        folder: from which its paths are seen.
        source: `data.source` of the whole config, which may stand elsewhere.
    """
    readers = {
        ("data", "path"): {"files": absolute, "hub": path_or_name}.get(str(source)),
        ("model", "base"): path_or_name,
        ("adapter", "start"): absolute,
        ("method", "name"): class_name,
        ("deploy", "test"): absolute,
    }
    changed = dict(tree)
    for (section, key), reader in readers.items():
        values = changed.get(section)
        if reader is not None and isinstance(values, Mapping) and isinstance(values.get(key), str):
            changed[section] = {**values, key: reader(values[key], folder)}
    if isinstance(changed.get("stage"), list):
        changed["stage"] = [_stage(entry, folder) for entry in changed["stage"]]
    return changed


def _stage(entry: object, folder: Path) -> object:
    if isinstance(entry, Mapping) and isinstance(entry.get("name"), str):
        return {**entry, "name": class_name(entry["name"], folder)}
    return entry
