# SPDX-License-Identifier: Apache-2.0
"""Settings as plain frozen dataclasses: a field's range is an annotation, its sentence the docstring below it.

::

    @dataclass(frozen=True)
    class SplitSettings:
        clients: Positive = 10
        '''Number of clients.'''

The application checks configs and writes the reference page from both; here nothing is needed but the standard
library, so that whoever uses the settings needs no more either.
"""

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

LARGEST = 3.4e38
"""Of the numbers that a setting may hold: what float32 holds, since settings meet tensors."""


@dataclass(frozen=True, slots=True)
class Range:
    """The bounds of a number, or of the length of a list; None: no such bound."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    entries: int | None = None
    """Of a list or a text: it has at least so many entries or characters."""

    def __str__(self) -> str:
        bounds = {"at least": self.at_least, "above": self.above, "at most": self.at_most, "below": self.below}
        words = [f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None]
        if self.entries is not None:
            words.append("not empty" if self.entries == 1 else f"at least {self.entries} of them")
        return " and ".join(words)

    def __contains__(self, value: float) -> bool:
        """Whether a number keeps to the bounds."""
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )


Positive = Annotated[int, Range(at_least=1)]
"""A whole number from 1."""
AboveZero = Annotated[float, Range(above=0.0)]
"""A number above zero."""
Share = Annotated[float, Range(at_least=0.0, below=1.0)]
"""A part of a whole, which never is the whole."""


@dataclass(frozen=True, slots=True)
class Number:
    """What a field that holds a number may hold."""

    whole: bool
    """Whole numbers only."""
    optional: bool
    """None as well."""
    bounds: tuple[Range, ...]

    def wrong(self, value: object) -> str | None:
        """What is wrong with a number, as the end of a sentence; None: nothing, or it is no number."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        if not abs(value) <= LARGEST:  # not a number is not at most anything
            return "it must be a finite number that float32 can hold"
        outside = next((bound for bound in self.bounds if value not in bound), None)
        return f"it must be {outside}" if outside else None


def numbers(kind: Any) -> Mapping[str, Number]:
    """The fields of a dataclass that hold numbers, by name."""
    return _numbers(kind)


@cache
def _numbers(kind: Any) -> Mapping[str, Number]:
    types = get_type_hints(kind, include_extras=True)
    found = {field.name: list(_members(types[field.name])) for field in dataclasses.fields(kind)}
    return {
        name: Number(int in dict(members), type(None) in dict(members), bounds)
        for name, members in found.items()
        for member, bounds in members
        if member in (int, float)
    }


def _members(annotation: Any, bounds: tuple[Range, ...] = ()) -> Iterator[tuple[Any, tuple[Range, ...]]]:
    """The types of an annotation, each with its ranges."""
    inner = get_args(annotation)
    if get_origin(annotation) is Annotated:
        yield from _members(inner[0], (*bounds, *(given for given in inner[1:] if isinstance(given, Range))))
    elif get_origin(annotation) in (Union, UnionType):
        for member in inner:
            yield from _members(member, bounds)
    else:
        yield annotation, bounds


def wrong_number(settings: object) -> str | None:
    """A sentence about the first number of a dataclass that is not what its field may hold; None: all are."""
    for name, number in numbers(type(settings)).items():
        value = getattr(settings, name)
        wrong = number.wrong(value)
        if wrong:
            return f"{name} is {value}; {wrong}."
    return None


def sentences(kind: type) -> dict[str, str]:
    """The docstring below each field of a dataclass, of those that it inherits from as well, on one line.

    Empty where the source is not at hand.
    """
    found: dict[str, str] = {}
    for ancestor in reversed(kind.__mro__):
        if dataclasses.is_dataclass(ancestor):
            found |= _below_fields(ancestor)
    return found


def _below_fields(kind: type) -> dict[str, str]:
    try:
        source = inspect.getsource(kind)
    except (OSError, TypeError):
        return {}
    (tree,) = ast.parse(textwrap.dedent(source)).body
    return {
        ast.unparse(field.target): " ".join(str(text.value.value).split())
        for field, text in pairwise(tree.body if isinstance(tree, ast.ClassDef) else [])
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }
