# SPDX-License-Identifier: Apache-2.0
"""The method that a config names, with its fields and its wrappers."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

from fedlora.app.config import WrapSection
from fedlora.app.sections import require_value
from fedlora.errors import ConfigError, MethodError, nearest
from fedlora.methods import find_method
from fedlora.methods.base import Method
from fedlora.methods.wrap import WRAPPERS


def make_method(name: str, options: Mapping[str, Any]) -> Method:
    """A method with its own fields.

    Raises:
        MethodError: no such method, or a value that a field does not take.
        ConfigError: a field that it does not have.
    """
    kind = find_method(name)
    require_fields(kind, "method", name, options)
    return kind(**options)


def wrapped(method: Method, wraps: Sequence[WrapSection]) -> Method:
    """A method with its wrappers around it, the first innermost.

    Raises:
        ConfigError: no such wrapper, or a field that it does not have.
        MethodError: a value that a field does not take, or a wrapper that does not go around this method.
    """
    for own in wraps:
        if own.name not in WRAPPERS:
            raise ConfigError(f"There is no wrapper {own.name!r}: {nearest(own.name, WRAPPERS)}")
        kind = WRAPPERS[own.name]
        require_fields(kind, f"wrap {own.name}", own.name, own.options)
        method = kind(inner=method, **own.options)
    return method


def require_fields(kind: type[Method], place: str, name: str, options: Mapping[str, Any]) -> None:
    """Refuse a field that a method or wrapper does not have, or a value that it does not take."""
    known = {field.name for field in dataclasses.fields(kind)} - {"inner"}
    for key in options:
        if key not in known:
            hint = nearest(key, known) if known else f"{name} has no fields of its own."
            raise ConfigError(f"The config has an unknown key {place}.{key}: {hint}")
    types = get_type_hints(kind, include_extras=True)
    for key, value in options.items():
        wrong = require_value(types[key], value)
        if wrong is not None:
            raise MethodError(f"{place}.{key} is {value!r}; {wrong}.")
