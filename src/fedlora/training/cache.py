# SPDX-License-Identifier: Apache-2.0
"""Folders that take a while to make and are kept between runs, under $XDG_CACHE_HOME/fedlora, for this user only."""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection
from pathlib import Path

_A_DAY = 86_400.0
_DIGESTS = "sha256.json"
"""In each folder: the names and digests of its other files."""


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """A folder of the cache; made where it is not there yet, or not as it was made. It is whole or not there at all.

    Args:
        name: within the cache; it should name the contents.
        make: fills an empty folder with files.

    Raises:
        OSError: the cache cannot be written.
    """
    folder = _home() / name
    if _is_whole(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".making-"))
    try:
        make(beside)
        (beside / _DIGESTS).write_text(json.dumps(_digests(beside), indent=2) + "\n", encoding="utf-8")
        for path in (*beside.rglob("*"), beside):
            _to_disk(path)
        _put(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder


def make_room(part: str, size: int, held: Collection[str]) -> None:
    """Remove what has been unused for longest from a part of the cache, until it holds at most so many bytes.

    What a process that was killed left half made goes after a day.

    Args:
        part: a folder of the cache whose folders are named by their contents; it may not be there.
        size: bytes.
        held: names of those that stay, whatever they take.
    """
    folders = [path for path in (_home() / part).glob("*") if path.is_dir()]
    abandoned = [path for path in folders if path.name[0] == "." and _newest(path) < time.time() - _A_DAY]
    whole = sorted((path for path in folders if path.name[0] != "."), key=lambda path: path.stat().st_mtime)
    sizes = {path: sum(file.stat().st_size for file in path.glob("*")) for path in whole}
    total, unused = sum(sizes.values()), [path for path in whole if path.name not in held]
    for path in unused:
        if total > size:
            total -= sizes[path]
            abandoned.append(path)
    for path in abandoned:
        shutil.rmtree(path, ignore_errors=True)


def _newest(folder: Path) -> float:
    """When a folder or a file in it was last written."""
    return max(path.stat().st_mtime for path in (folder, *folder.glob("*")))


def _home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedlora"


def _put(made: Path, folder: Path) -> None:
    """Rename a folder into place; a damaged one goes out of its way first."""
    if folder.is_dir() and not _is_whole(folder):
        damaged = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".damaged-"))
        folder.rename(damaged / folder.name)
        shutil.rmtree(damaged, ignore_errors=True)
    try:
        made.rename(folder)
    except OSError:
        if not folder.is_dir():  # another process may have been first
            raise
    _to_disk(folder.parent)


def _to_disk(path: Path) -> None:
    if os.name == "nt":  # which syncs no folder
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_whole(folder: Path) -> bool:
    """Whether a folder holds what was written into it, to the last bit."""
    try:
        return bool(json.loads((folder / _DIGESTS).read_bytes()) == _digests(folder))
    except (OSError, ValueError):
        return False


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _DIGESTS)
    return {path.relative_to(folder).as_posix(): _digest(path) for path in files}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
