# SPDX-License-Identifier: Apache-2.0
"""The files of the Flower app: they lie in the package and are written out where they are needed."""

from importlib import resources
from pathlib import Path

from fedlora.errors import RunFolderError

APP = Path(str(resources.files("fedlora.deploy.flower") / "app"))
"""Where they lie: the app's `pyproject.toml`, and the configuration of the proxy."""


def write_app(folder: Path) -> list[Path]:
    """Write the app out.

    Args:
        folder: must be empty or not there.

    Returns:
        What was written.

    Raises:
        RunFolderError: the folder holds something, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunFolderError(f"{folder} already holds something: choose another folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for source in sorted(APP.iterdir()):
            (folder / source.name).write_bytes(source.read_bytes())
    except OSError as error:
        raise RunFolderError(f"{folder} cannot be written: {error.strerror}.") from error
    return sorted(folder.iterdir())
