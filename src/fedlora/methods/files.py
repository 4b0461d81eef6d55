# SPDX-License-Identifier: Apache-2.0
"""Classes in a user's files, named as `path/to/file.py:Class`, and where in such a file something went wrong."""

import dataclasses
import importlib.util
import inspect
import sys
import traceback
from pathlib import Path
from typing import TypeVar

from fedlora.errors import MethodError, nearest

Wanted = TypeVar("Wanted")
_LONGEST = 300
"""Characters of an exception that a sentence keeps."""


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
        raise MethodError(f"{word} file {path} does not load: {crash(error, str(path))}") from error
    return module


def require_whole(kind: type[Wanted], word: str) -> type[Wanted]:
    """The class, unless it lacks what every method or stage has.

    Args:
        kind: a subclass of Method or Stage.
        word: which of the two.

    Raises:
        MethodError: it has no name, lacks a function, or has fields without being a dataclass.
    """
    place = f"{word} {kind.__name__} ({source_file(kind)})"
    if not isinstance(getattr(kind, "name", None), str):
        suggested = kind.__name__.lower()
        raise MethodError(f'{place} has no name: add `name: ClassVar[str] = "{suggested}"` to the class.')
    lacking = sorted(getattr(kind, "__abstractmethods__", ()))
    if lacking:
        told = [f"{name}({', '.join(inspect.signature(getattr(kind, name)).parameters)})" for name in lacking]
        raise MethodError(f"{place} has no function {', '.join(told)}: write it; see docs/write-a-method.md.")
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name, annotation in inspect.get_annotations(kind).items():
        if name not in known and "ClassVar" not in str(annotation):
            raise MethodError(f"{place}: {name} is no field yet: write @dataclass(frozen=True) above the class.")
    return kind


def source_file(kind: type) -> str:
    """The file that a class stands in; its module's name where no file is at hand."""
    try:
        return inspect.getsourcefile(kind) or kind.__module__
    except (OSError, TypeError):
        return kind.__module__


def crash(error: BaseException, file: str) -> str:
    """An exception in one sentence: the line of the file at which it arose, the function, what it says.

    Args:
        error: as it was caught.
        file: of the user. Where the exception never passed through it, the last line that it did pass is named.
    """
    frames = traceback.extract_tb(error.__traceback__)
    here = [frame for frame in frames if frame.filename == file] or list(frames)
    text = " ".join(str(error).split())[:_LONGEST].removesuffix(".")
    hint = ""
    if isinstance(error, AttributeError) and error.obj is not None and isinstance(error.name, str):
        hint = nearest(error.name, [name for name in dir(error.obj) if not name.startswith("_")])
    what = f"{type(error).__name__}: {text}{f'; {hint}' if hint else '.'}"
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: {what}"
    if not here:
        return what
    function = "" if here[-1].name == "<module>" else f", in {here[-1].name}"
    return f"{here[-1].filename}:{here[-1].lineno}{function}: {what}"
