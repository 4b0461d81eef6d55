# SPDX-License-Identifier: Apache-2.0
"""Classes in a user's files, named as `path/to/file.py:Class`."""

import importlib.util
import sys
from pathlib import Path
from typing import TypeVar

from fedlora.errors import MethodError

Wanted = TypeVar("Wanted")


def class_in_file(name: str, kind: type[Wanted], word: str) -> type[Wanted]:
    """The class that a name leads to.

    Args:
        name: `path/to/file.py:Class`.
        kind: what it must be a subclass of.
        word: what such a class is called: Method or Stage.

    Raises:
        MethodError: there is no such file or class, or the file does not load.
    """
    file, _, class_name = name.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise MethodError(f"{word} {name!r}: there is no file {file!r}; expected path/to/file.py:Class.")
    found = vars(_load(path, word)).get(class_name)
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise MethodError(f"{word} {name!r}: {file} has no class {class_name!r} that is a fedlora {word}.")
    return found


def _load(path: Path, word: str) -> object:
    module_name = f"fedlora_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise MethodError(f"{word} file {path} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise MethodError(f"{word} file {path} does not load: {type(error).__name__}: {error}") from error
    return module
