# SPDX-License-Identifier: Apache-2.0
"""A config as TOML with a word on every key: some are set, all others stand as comments at their default."""

import textwrap
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import tomli_w

from fedlora.app.config.schema import Config
from fedlora.app.config.sections import Key, keys, sections

Values = Mapping[str, Mapping[str, Any]]
"""Section -> key -> value."""


def commented(values: Values, heading: Sequence[str]) -> str:
    """A TOML config that runs as it is.

    Args:
        values: what is set; every other key is a comment.
        heading: lines that stand above all, as comments.
    """
    lines = [f"# {line}" for line in (*heading[:1], "Every key that is commented out stands at its default.")]
    lines += [f"# {line}" for line in heading[1:]]
    for name, (section, repeated) in sections(Config).items():
        if not repeated and name != "deploy":
            lines += ["", f"[{name}]  # {(section.__doc__ or '').splitlines()[0]}"]
            lines += _section(section, values.get(name, {}))
    lines += ["", "# [[stage]]  # fedprox, clip, fedavgm or fedadam behind the method; as many as you like", "# name ="]
    return "\n".join(lines) + "\n"


def _section(section: type, values: Mapping[str, Any]) -> Sequence[str]:
    lines = []
    for key in keys(section):
        lines += textwrap.wrap(_meaning(key), 118, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
        if key.name in values:
            lines.append(_line(key.name, values[key.name]))
        else:
            lines.append(f"# {_line(key.name, key.default)}" if key.default is not None else f"# {key.name} =")
    return lines


def _meaning(key: Key) -> str:
    """What a key means, with all its choices where it has some: a reader of the file sees only one of them."""
    choices = _choices(key.type)
    return key.text if all(choice in key.text for choice in choices) else f"{key.text} One of: {', '.join(choices)}."


def _choices(annotation: Any) -> list[str]:
    """The words that a value may be; none where it is no choice among words."""
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in get_args(annotation)]
    if get_origin(annotation) is Annotated or get_origin(annotation) in (Union, UnionType):
        return [choice for inner in get_args(annotation) for choice in _choices(inner)]
    return []


def _line(key: str, value: Any) -> str:
    return tomli_w.dumps({key: value}).strip()
