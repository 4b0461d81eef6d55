# SPDX-License-Identifier: Apache-2.0
"""The keys of figures and of the table: which colour, marker and line is whose."""

from dataclasses import dataclass

from fedlora.report.svg import PALETTE

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""Matplotlib's names. A method has a colour and a marker: who cannot tell the colours can tell the markers."""
_GLYPHS = "●■▲◆▼✚✖★"
DASHES = ("-", "--", ":")
"""Of every eight methods the next, since colours and markers come round again."""


@dataclass(frozen=True, slots=True)
class Key:
    """One entry: a swatch and what it stands for."""

    name: str
    glyph: str
    style: str
    """The swatch's CSS classes."""


def of_group(number: int, name: str) -> Key:
    """The entry of a group's curve or dots, by the group's place."""
    return Key(name, _GLYPHS[number % len(_GLYPHS)], f"line c{number % len(PALETTE)} dash{turn(number)}")


def of_chance(words: str) -> Key:
    """The entry of the line at the score of a model that guesses."""
    return Key(f"chance, {words}", "", "line chance")


def of_bar(name: str, shade: str) -> Key:
    """The entry of a bar: its shade is `dark` or `light`."""
    return Key(name, "", f"bar {shade}")


def turn(number: int) -> int:
    """How often colours and markers have come round, as a place in `DASHES`."""
    return number // len(PALETTE) % len(DASHES)
