# SPDX-License-Identifier: Apache-2.0
"""The method and the stages that a config names, with their fields."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

from fedlora.app.config.schema import Config
from fedlora.app.config.sections import require_value, shown, toml_value
from fedlora.core.settings import numbers
from fedlora.errors import ConfigError, FedloraError, MethodError, nearest
from fedlora.federation.pipeline import Pipeline
from fedlora.federation.stages import STAGES, find_stage
from fedlora.federation.stages.base import Stage
from fedlora.methods import BUILT_IN, find_method, with_facts
from fedlora.methods.base import Method
from fedlora.methods.files import class_in_file, crash, require_whole, source_file


def make_pipeline(config: Config) -> Pipeline:
    """The config's method with its stages, the first one next to the method.

    Raises:
        MethodError: no such method or stage, a value that a field does not take, or a stage that makes no sense with
            this method.
        ConfigError: a field that one of them does not have.
    """
    stages = tuple(make_stage(stage.name, stage.options) for stage in config.stage)
    return Pipeline(make_method(config.method.name, config.method.options), stages)


def make_method(name: str, options: Mapping[str, Any]) -> Method:
    """A method with its own fields.

    Raises:
        MethodError: no such method, or a value that a field does not take.
        ConfigError: a field that it does not have.
    """
    kind = find_method(name)
    require_fields(kind, "method", name, options)
    return kind(**options)


def make_stage(name: str, options: Mapping[str, Any]) -> Stage:
    """A stage with its fields.

    Raises:
        MethodError: no such stage, or a value that a field does not take.
        ConfigError: a field that it does not have.
    """
    kind = find_stage(name)
    require_fields(kind, f"stage {name}", name, options)
    return kind(**options)


def find_subject(name: str) -> type[Method] | type[Stage]:
    """The class of a method or of a stage, by a built-in name or as `path/to/file.py:Class`.

    Raises:
        MethodError: there is no such method, stage, file or class.
    """
    if ":" in name:
        found = class_in_file(name, object, "Method or Stage")
        if issubclass(found, Method):
            return with_facts(found)
        if issubclass(found, Stage):
            return require_whole(found, "Stage")
        raise MethodError(
            f"{name!r} is neither a fedlora Method nor a fedlora Stage: make it a subclass of one of them."
        )
    if name in BUILT_IN or name in STAGES:
        return find_stage(name) if name in STAGES else find_method(name)
    raise MethodError(f"There is no method or stage {name!r}: {nearest(name, [*BUILT_IN, *STAGES])}")


def make_subject(name: str, overrides: Sequence[str]) -> tuple[Method | Stage, frozenset[str]]:
    """A method or stage to check, and the names of the fields that were set.

    Args:
        name: a built-in name, or `path/to/file.py:Class`.
        overrides: `field=value` each.

    Raises:
        MethodError: no such class, one that cannot be made, or a value that a field does not take.
        ConfigError: an override of another form, or a field that it does not have.
    """
    kind, options = find_subject(name), {}
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"--set {override!r} is not understood: expected field=value, such as trim=0.2.")
        options[key.strip()] = toml_value(text)
    require_fields(kind, "method" if issubclass(kind, Method) else f"stage {kind.name}", name, options)
    try:
        return kind(**options), frozenset(options)
    except FedloraError:
        raise
    except Exception as error:
        raise MethodError(crash(error, source_file(kind))) from error


def require_fields(kind: type[Method] | type[Stage], place: str, name: str, options: Mapping[str, Any]) -> None:
    """Refuse a field that a method or stage does not have, or a value that it does not take, or one left out."""
    known = {field.name for field in dataclasses.fields(kind)}
    for key in options:
        if key not in known:
            hint = nearest(key, {"name", *known}) if known else f"{name} has no fields of its own."
            raise ConfigError(f"The config has an unknown key {place}.{key}: {hint}")
    types, bounded = get_type_hints(kind, include_extras=True), numbers(kind)
    for key, value in options.items():
        wrong = (bounded[key].wrong(value) if key in bounded else None) or require_value(types[key], value)
        if wrong is not None:
            raise MethodError(f"{place}.{key} is {shown(value)}; {wrong}.")
    for field in dataclasses.fields(kind):
        no_default = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if no_default and field.name not in options:
            raise MethodError(
                f"{place}.{field.name} is not set, and {kind.__name__} ({source_file(kind)}) gives it no default: set "
                f"it, or write `{field.name}: ... = value` in the class."
            )
