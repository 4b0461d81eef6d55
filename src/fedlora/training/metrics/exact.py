# SPDX-License-Identifier: Apache-2.0
"""Whether a generation is right as a whole: exact match, and GSM8K's final number as lm-eval finds it."""

import re
from collections.abc import Sequence
from typing import Final

_STRICT: Final = re.compile(r"#### (\-?[0-9\.\,]+)")
_FLEXIBLE: Final = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_IGNORED: Final = (re.compile(","), re.compile(r"\$"), re.compile(r"(?s).*#### "), re.compile(r"\.$"))
"""What lm-eval's task gsm8k (version 3) takes out of numbers before it compares them, in this order."""
_NONE: Final = "[invalid]"
"""What lm-eval calls a generation without a number."""


def exact_match(generated: str, answers: Sequence[str]) -> bool:
    """Whether a generation is one of the right answers, white space around both left out."""
    return generated.strip() in {answer.strip() for answer in answers}


def gsm8k_strict(generated: str, answers: Sequence[str]) -> bool:
    """Whether the number behind the first `####` is that of a right answer (lm-eval's `strict-match`)."""
    return _is_number_of(strict_number(generated), answers)


def gsm8k_flexible(generated: str, answers: Sequence[str]) -> bool:
    """Whether the last number is that of a right answer (lm-eval's `flexible-extract`)."""
    return _is_number_of(flexible_number(generated), answers)


def strict_number(generated: str) -> str:
    """The number behind the first `####`; `[invalid]` where there is none."""
    found = _STRICT.search(generated)
    return found[1].strip() if found else _NONE


def flexible_number(generated: str) -> str:
    """The last number, as it is written; `[invalid]` where there is none."""
    found = [match[0] for match in _FLEXIBLE.finditer(generated)]
    return found[-1].strip() if found else _NONE


def _is_number_of(number: str, answers: Sequence[str]) -> bool:
    return _bare(number) in {_bare(answer) for answer in answers}


def _bare(text: str) -> str:
    for ignored in _IGNORED:
        text = ignored.sub("", text)
    return text.lower()
