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
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated


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


Positive = Annotated[int, Range(at_least=1)]
"""A whole number from 1."""
AboveZero = Annotated[float, Range(above=0.0)]
"""A number above zero."""
Share = Annotated[float, Range(at_least=0.0, below=1.0)]
"""A part of a whole, which never is the whole."""


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
