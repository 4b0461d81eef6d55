# SPDX-License-Identifier: Apache-2.0
"""Text that came from somebody else: whether it can be written to a file, a log and a page as it is."""

import unicodedata

_REFUSED = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode categories: control characters, halves of surrogate pairs, separators that end a line."""


def is_plain(text: str, most: int) -> bool:
    """Whether text is one line of complete characters, none of them a control character, and not too long.

    Args:
        text: as JSON gave it, which can name half of a surrogate pair.
        most: the largest number of characters allowed.
    """
    return len(text) <= most and not any(unicodedata.category(character) in _REFUSED for character in text)
