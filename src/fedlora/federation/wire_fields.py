# SPDX-License-Identifier: Apache-2.0
"""The fields of messages, checked one by one: what comes from elsewhere is not trusted to have any form.

All raise `PayloadError` where a field cannot be.
"""

from collections.abc import Mapping
from typing import Any, Final

from fedlora.core.metrics import Score
from fedlora.errors import PayloadError

LARGEST: Final = 2**40
"""Examples of a site, its weight and its rank."""

Number = tuple[int, int]
"""Which order: the server process, and a count of what it has sent."""


def score_in(fields: object) -> Score | None:
    """A score, where there is one."""
    match fields:
        case None:
            return None
        case {"examples": int(examples), "sums": dict(sums), **others} if not others and all(
            type(value) in (int, float) for value in (examples, *sums.values())
        ):
            return Score(examples, sums)
    raise PayloadError("this is no score")


def are_whole(*values: object) -> bool:
    """Whether these are whole numbers; JSON's true and false are numbers to Python."""
    return all(type(value) is int for value in values)


def weight_in(fields: Mapping[Any, Any]) -> float | None:
    """A client's weight where it is told; above zero and finite."""
    if "weight" not in fields:
        return None
    weight = fields["weight"]
    if type(weight) not in (int, float) or not 0 < weight <= LARGEST:
        raise PayloadError("a weight that cannot be")
    return float(weight)


def number_in(value: list[Any]) -> Number:
    """The number of an order."""
    if len(value) != 2 or not are_whole(*value):
        raise PayloadError("a number of an order that is none")
    return value[0], value[1]


def texts_in(value: Mapping[str, Any]) -> Mapping[str, str]:
    """A mapping that holds texts alone."""
    if not all(isinstance(entry, str) for entry in value.values()):
        raise PayloadError("a shared part of a config that is no text")
    return value


def short(text: str, most: int, least: int = 0) -> str:
    """A text of so many characters."""
    if not least <= len(text) <= most:
        raise PayloadError(f"a text of {len(text)} characters, expected {least} to {most}")
    return text
