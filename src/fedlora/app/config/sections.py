# SPDX-License-Identifier: Apache-2.0
"""Sections of TOML checked against settings dataclasses: nothing unknown, nothing bent, one sentence a mistake.

What a key may hold stands in the dataclass, see `fedlora.core.settings`. Here a pydantic model is derived from it,
which checks; the caller gets the dataclass.
"""

import dataclasses
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, reduce
from operator import or_
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model

from fedlora.core.settings import LARGEST, Range, sentences
from fedlora.errors import ConfigError, nearest

Settings = TypeVar("Settings")

_OPTIONS = "options"
"""The field that takes all further keys of a section whose keys depend on its name, such as [method]."""
_LONGEST = 80
"""Characters of a value that a sentence shows."""
_MOST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a section, for the reference page and for a commented config."""

    name: str
    type: Any
    """Its annotation, `Range`s included."""
    default: Any
    required: bool
    text: str
    """What it means, in a sentence or two."""


def read_tree(path: Path) -> dict[str, Any]:
    """The nested mappings of a TOML file.

    Raises:
        ConfigError: it cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"The config {path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:  # RecursionError: nested too deeply; ValueError: all else
        raise ConfigError(f"The config {path} is no TOML: {error}.") from error


def checked(kind: type[Settings], tree: Mapping[str, Any]) -> Settings:
    """Settings of some kind from nested mappings.

    Raises:
        ConfigError: a key or a value is wrong.
    """
    try:
        model = _model(cast(Any, kind)).model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_sentence(error, kind)) from error
    return cast(Settings, _made(kind, model))


def require_value(annotation: Any, value: Any) -> str | None:
    """What is wrong with a value, as the end of a sentence; None: it is of the type and in the range."""
    try:
        TypeAdapter(checked_type(annotation)).validate_python(value, strict=True)
    except ValidationError as error:
        return _expected(error.errors()[0]["msg"])
    return None


def keys(kind: type) -> list[Key]:
    """The keys of a section, in order; those that depend on its name are left out."""
    types, texts = get_type_hints(kind, include_extras=True), sentences(kind)
    return [
        Key(
            field.name,
            types[field.name],
            None if _is_required(field) else _default(field),
            _is_required(field),
            texts.get(field.name, ""),
        )
        for field in _fields(kind)
        if field.name != _OPTIONS
    ]


def sections(kind: type) -> dict[str, tuple[type, bool]]:
    """Name -> the dataclass of each section of a config, and whether it may stand there several times."""
    found = {}
    for name, annotation in get_type_hints(kind).items():
        inner = [argument for argument in get_args(annotation) if argument is not NoneType]
        found[name] = (inner[0] if inner else annotation, get_origin(annotation) is list)
    return found


def tree_of(settings: Any) -> dict[str, Any]:
    """Nested mappings from which `checked` makes the same settings, with every key; None where there is no value."""
    tree = {field.name: _plain(getattr(settings, field.name)) for field in _fields(type(settings))}
    options: dict[str, Any] = tree.pop(_OPTIONS, {})
    return tree | options


def override_key(tree: dict[str, Any], override: str) -> None:
    """Put `section.key=value` into nested mappings.

    Raises:
        ConfigError: it has another form.
    """
    key, separator, text = override.partition("=")
    section, dot, name = key.strip().partition(".")
    if not (separator and dot and section and name):
        raise ConfigError(f"--set {override!r} is not understood: expected section.key=value, such as run.rounds=5.")
    value = toml_value(text)
    values = tree.setdefault(section, {})
    if not isinstance(values, dict):
        raise ConfigError(f"--set {override!r}: {section} is no section of the config.")
    values[name] = value


def toml_value(text: str) -> Any:
    """What stands behind the equals sign of an override: TOML, or an unquoted word, which is a string."""
    try:
        return tomllib.loads(f"value = {text.strip()}")["value"]
    except (ValueError, RecursionError):
        return text.strip()


def checked_type(annotation: Any) -> Any:
    """An annotation as pydantic reads it: ranges as its constraints, dataclasses as models, finite numbers only."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        ranges = [_constraint(given) for given in inner[1:] if isinstance(given, Range)]
        return reduce(lambda whole, one: Annotated[whole, one], ranges, checked_type(inner[0]))
    if origin in (Union, UnionType):
        return reduce(or_, map(checked_type, inner))
    if origin is list:
        return list[checked_type(inner[0])]  # type: ignore[misc]
    if annotation is float:
        return Annotated[float, Field(allow_inf_nan=False, ge=-LARGEST, le=LARGEST)]
    if annotation is int:
        return Annotated[int, Field(ge=-_MOST, le=_MOST)]
    return _model(cast(Any, annotation)) if dataclasses.is_dataclass(annotation) else annotation


def _constraint(given: Range) -> Any:
    return Field(ge=given.at_least, gt=given.above, le=given.at_most, lt=given.below, min_length=given.entries)


@cache
def _model(kind: type) -> type[BaseModel]:
    """The pydantic model that checks a section, or all sections."""
    types = get_type_hints(kind, include_extras=True)
    fields: dict[str, Any] = {}
    for field in _fields(kind):
        if field.name != _OPTIONS:
            default = ... if _is_required(field) else Field(default_factory=_factory(field))
            fields[field.name] = (checked_type(types[field.name]), default)
    extra: Any = "allow" if any(field.name == _OPTIONS for field in _fields(kind)) else "forbid"
    return create_model(
        kind.__name__, __config__=ConfigDict(extra=extra, strict=True, protected_namespaces=()), **fields
    )


def _made(annotation: Any, value: Any) -> Any:
    """A checked value with dataclasses in the place of models; what was left to its default is a dataclass already."""
    if isinstance(value, list):
        return [_made(annotation, entry) for entry in value]
    if not isinstance(value, BaseModel):
        return value
    kind = next(inner for inner in (annotation, *get_args(annotation)) if dataclasses.is_dataclass(inner))
    types = get_type_hints(kind)
    values = {name: _made(types[name], getattr(value, name)) for name in type(value).model_fields}
    if value.model_extra is not None:
        values[_OPTIONS] = value.model_extra
    return cast(Any, kind)(**values)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return tree_of(value)
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return dict(value) if isinstance(value, Mapping) else value


def _fields(kind: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(kind)


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _default(field: "dataclasses.Field[Any]") -> Any:
    return _factory(field)()


def _factory(field: "dataclasses.Field[Any]") -> Callable[[], Any]:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory
    return lambda: field.default


def _sentence(error: ValidationError, kind: type) -> str:
    """The first mistake, in words."""
    first, known = error.errors()[0], sections(kind)
    place = [str(part) for part in first["loc"]]
    if len(place) > 1 and not known.get(place[0], (None, False))[1]:
        place = place[:2]  # what follows says which of several types was tried, or where in a list
    key = ".".join(place)
    if first["type"] == "extra_forbidden":
        if len(place) == 1:
            return f"The config has an unknown section [{key}]: {nearest(key, known)}"
        return f"The config has an unknown key {key}: {nearest(place[-1], [k.name for k in keys(known[place[0]][0])])}"
    if first["type"] == "missing" and len(place) > 1:
        return f"{key} is not set, and it has no default: {_meaning(known[place[0]][0], place[-1])}"
    if first["type"] == "missing":
        return f"The config has no section [{key}], which it needs."
    if first["type"] == "model_type":
        return f"{key} is {shown(first['input'])}; expected a section [{key}] with keys."
    tried = dict.fromkeys(_expected(other["msg"]) for other in error.errors() if other["loc"][:2] == first["loc"][:2])
    return f"{key} is {shown(first['input'])}; {' or '.join(tried)}."


def _meaning(kind: type, name: str) -> str:
    return next(key.text for key in keys(kind) if key.name == name)


def shown(value: object) -> str:
    """A value in a sentence."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of more than some thousand digits
        return "a whole number of very many digits"
    return text if len(text) < _LONGEST else text[: _LONGEST - 3] + "..."


def _expected(message: str) -> str:
    return message[0].lower() + message[1:]
