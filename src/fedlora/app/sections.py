# SPDX-License-Identifier: Apache-2.0
"""What all configs have in common: TOML sections, dotted overrides, one sentence a mistake."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from fedlora.errors import ConfigError, nearest

Sections = TypeVar("Sections", bound=BaseModel)


class Section(BaseModel):
    """A section: unknown keys are refused, values are not bent into another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def read_tree(path: Path) -> dict[str, Any]:
    """The nested mappings of a TOML file.

    Raises:
        ConfigError: it cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"The config {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"The config {path} is no TOML: {error}.") from error


def checked(kind: type[Sections], tree: Mapping[str, Any]) -> Sections:
    """Sections of some kind from nested mappings.

    Raises:
        ConfigError: a key or a value is wrong.
    """
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_sentence(error, kind)) from error


def section_of(annotation: Any) -> type[BaseModel]:
    """The section that stands under a key: alone, in a list, or left out by default."""
    inner = [own for own in get_args(annotation) if own is not type(None)]
    return cast(type[BaseModel], inner[0] if inner else annotation)


def override_key(tree: dict[str, Any], override: str) -> None:
    """Put `section.key=value` into nested mappings.

    Raises:
        ConfigError: it has another form.
    """
    key, separator, text = override.partition("=")
    section, dot, name = key.strip().partition(".")
    if not (separator and dot and section and name):
        raise ConfigError(f"--set {override!r} is not understood: expected section.key=value, such as run.rounds=5.")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a bare word is a string
    own = tree.setdefault(section, {})
    if not isinstance(own, dict):
        raise ConfigError(f"--set {override!r}: {section} is no section of the config.")
    own[name] = value


def _sentence(error: ValidationError, kind: type[BaseModel]) -> str:
    """The first mistake, in words."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    if len(place) > 1 and place[0] != "stage":
        place = place[:2]  # what follows says which of several types was tried, or where in a list
    key = ".".join(place)
    if first["type"] == "extra_forbidden":
        if len(place) == 1:
            return f"The config has an unknown section [{key}]: {nearest(key, kind.model_fields)}"
        section = section_of(kind.model_fields[place[0]].annotation)
        return f"The config has an unknown key {key}: {nearest(place[-1], section.model_fields)}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"The config is wrong: {message}."
    shown = repr(first["input"])
    return f"{key} is {shown if len(shown) < 80 else shown[:77] + '...'}; {_expected(message)}."


def _expected(message: str) -> str:
    return message[0].lower() + message[1:]
