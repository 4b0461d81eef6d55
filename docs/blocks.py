"""Blocks of written pages that are made from results or from the code: `<!-- name -->` ... `<!-- /name -->`."""

import re
from collections.abc import Callable, Mapping

Makers = Mapping[str, Callable[[], str]]
_BLOCK = re.compile(r"<!-- ([\w-]+) -->\n(.*?)<!-- /\1 -->", flags=re.S)


class UnfoundedError(Exception):
    """The results do not say what a sentence says of them."""


def claim(holds: bool, sentence: str) -> str:
    """A sentence about results, if they say so: an order of methods is stated together with its test.

    Raises:
        UnfoundedError: they do not, so that the sentence has to be written anew.
    """
    if not holds:
        raise UnfoundedError(f"the results do not say any more: {sentence}")
    return sentence


def block(name: str, text: str) -> str:
    """A block as it stands in a page."""
    return f"<!-- {name} -->\n{text}\n<!-- /{name} -->"


def blocks_of(page: str) -> dict[str, str]:
    """Name -> contents of every block of a page."""
    return {found[1]: found[2] for found in _BLOCK.finditer(page)}


def without_blocks(page: str) -> str:
    """A page with its blocks blanked out, line by line, so that line numbers stay."""
    return _BLOCK.sub(lambda found: "\n" * found[0].count("\n"), page)


def filled(page: str, makers: Makers) -> str:
    """A page with every block made anew.

    Raises:
        KeyError: the page lacks a block that is made, or has one that nobody makes.
    """
    if (there := set(blocks_of(page))) != set(makers):
        raise KeyError(f"blocks {sorted(there ^ set(makers))} are made or there, but not both")
    return _BLOCK.sub(lambda found: block(found[1], makers[found[1]]()), page)
