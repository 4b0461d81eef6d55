# SPDX-License-Identifier: Apache-2.0
"""Writing to disk so that a reader never sees half a file, and a full disk gets a sentence."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import quote

from fedlora.errors import RunFolderError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PART = ".part"
"""The ending of a file that is being written. What a kill leaves of it is removed on resume."""
_LONGEST_NAME = 150
"""Characters of a file's name before its endings: file systems take 255 bytes."""


def file_name(name: str) -> str:
    """A name that somebody chose (a client's, a run's) as the name of one file or folder.

    Different names give different files, and none of them leads to another folder or to a hidden file: what file
    systems do not take, and a dot in front, is written as `%` and its bytes in hexadecimal; of long names the end is a
    digest.
    """
    quoted = quote(name, safe="") or "%"
    if quoted.startswith("."):
        quoted = f"%2E{quoted[1:]}"
    if len(quoted) <= _LONGEST_NAME:
        return quoted
    return f"{quoted[: _LONGEST_NAME // 2]}%%{hashlib.sha256(name.encode()).hexdigest()[:32]}"


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is either the old one or the new one, whatever happens.

    Raises:
        RunFolderError: the disk is full, or the place cannot be written.
    """
    beside = path.with_name(f".{path.name}{PART}")
    with _sentence(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)


def write_json(path: Path, tree: object) -> None:
    """Write JSON, indented, in the order of the tree."""
    write_whole(path, _encoded(json.dumps(tree, indent=2, ensure_ascii=False) + "\n"))


def append_lines(path: Path, *lines: Mapping[str, object]) -> None:
    """Append JSON lines.

    Raises:
        RunFolderError: the disk is full, or the place cannot be written.
    """
    with _sentence(path), path.open("ab") as file:
        file.write(encoded_lines(*lines))
        file.flush()
        os.fsync(file.fileno())


def encoded_lines(*lines: Mapping[str, object]) -> bytes:
    """JSON lines as they stand in a file."""
    return _encoded("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def _encoded(text: str) -> bytes:
    """JSON as UTF-8, which has no half of a surrogate pair: that becomes its escape, which JSON reads as the same."""
    return text.encode(errors="backslashreplace")


@contextmanager
def hold(folder: Path, otherwise: str = "choose another folder with --out") -> Iterator[Callable[[], None]]:
    """Hold a folder for one writer; the kernel lets go when the process ends, however it ends.

    Args:
        folder: is made if it is not there.
        otherwise: what the sentence advises besides waiting.

    Yields:
        How to let go. Where the block fails that happens by itself.

    Raises:
        RunFolderError: somebody else holds it.
    """
    if fcntl is None:
        yield lambda: None
        return
    with _sentence(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield partial(os.close, descriptor)
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise RunFolderError(
                f"Another process is at work in {folder}: wait until it ends, or {otherwise}."
            ) from error
        raise


@contextmanager
def _sentence(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunFolderError(
            f"{path} cannot be written: {error.strerror}. What was finished is kept; make room and go on with --resume."
        ) from error
