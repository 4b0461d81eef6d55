# SPDX-License-Identifier: Apache-2.0
"""Values and names of columns as error sentences write them."""

from collections.abc import Iterable


def names(columns: Iterable[str]) -> str:
    """Names of columns in a sentence."""
    return ", ".join(repr(name) for name in columns)


def shown(value: object) -> str:
    """A value in a sentence, not longer than it can be read."""
    text = ascii(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
