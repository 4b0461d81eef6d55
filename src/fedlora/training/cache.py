# SPDX-License-Identifier: Apache-2.0
"""Folders that take a while to make and are kept between runs, under $XDG_CACHE_HOME/fedlora, for this user only."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """A folder of the cache; made where it is not there yet, whole or not at all.

    Args:
        name: within the cache; it should name the contents, since what is there is never made again.
        make: fills an empty folder.

    Raises:
        OSError: the cache cannot be written.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedlora" / name
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".making-"))
    try:
        make(beside)
        beside.rename(folder)
    except OSError:
        if not folder.is_dir():  # another process may have been first
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder
