# SPDX-License-Identifier: Apache-2.0
"""Text that others chose - labels, owners, names, notes - in a form that every page and figure can hold."""

import json
import re
from collections.abc import Sequence
from typing import Any

LONGEST_NAME = 30
"""Characters of a name at an edge or in a legend; tips have more."""

_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
"""What XML or HTML forbids (control characters, halves of surrogate pairs, noncharacters), what ends a line, and what
turns the direction of all text after it. Letters that are written from right to left are none of these."""
_UNFIT_IN_LINES = re.compile(rf"(?![\t\n]){_UNFIT.pattern}")


def visible(text: str) -> str:
    r"""The text with every unfit character as its escape, such as `\u0000`."""
    return _UNFIT.sub(_escape, text)


def visible_lines(text: str) -> str:
    """The same for text of several lines, which keeps its line ends and tabs."""
    return _UNFIT_IN_LINES.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def read_json(data: bytes) -> Any:
    """The tree of a JSON text, with every string in it, keys included, made visible.

    Raises:
        ValueError: it is no JSON.
        RecursionError: it is nested too deeply.
    """
    text = data.decode("utf-8", "surrogatepass")
    tree = json.loads(text)
    suspect = "\\" in text or _UNFIT.search(text)  # most lines of a run are neither, and need no walk
    return visible_tree(tree) if suspect else tree


def visible_tree(tree: Any) -> Any:
    """A tree of JSON or TOML, with every string in it, keys included, made visible."""
    if isinstance(tree, str):
        return visible(tree)
    if isinstance(tree, dict):
        return {visible(key): visible_tree(branch) for key, branch in tree.items()}
    return [visible_tree(branch) for branch in tree] if isinstance(tree, list) else tree


def shortened(text: str, most: int) -> str:
    """The text, without its middle where it is longer than so many characters: names often differ at their end."""
    tail = most // 3
    return text if len(text) <= most else f"{text[: most - tail - 1]}…{text[len(text) - tail :]}"


def some(values: Sequence[Any], most: int) -> Sequence[Any]:
    """All values, or every so-manieth so that there are at most so many; the first is always among them."""
    return values[:: -(-len(values) // most)] if values else values
