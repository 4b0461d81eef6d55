# SPDX-License-Identifier: Apache-2.0
"""ROUGE-L by the package rouge-score, with its own tokenizer or with one that knows letters of all scripts.

The package's own tokenizer keeps only a to z and 0 to 9, so that every text in another script scores 0. The one here
agrees with it on ASCII text, and elsewhere takes runs of letters, marks and digits as words, and each sign of the
scripts that are written without spaces.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from fedlora.training.metrics.optional import optional_package

RougeWords = Literal["unicode", "ascii"]
"""unicode: letters of all scripts; ascii: rouge-score's own tokenizer."""

_NO_SPACES = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9f\U00020000-\U0003134f]"
)
"""Thai, Lao, Burmese, Khmer, kana and Chinese characters."""


def unicode_words(text: str) -> list[str]:
    """Words in small letters: runs of letters, marks and digits; each sign of a script without spaces by itself."""
    words: list[str] = []
    joined = False
    for sign in unicodedata.normalize("NFC", text.lower()):
        kind = unicodedata.category(sign)[0]
        alone = bool(_NO_SPACES.match(sign)) and kind == "L"
        if kind not in "LMN":
            joined = False
        elif words and (joined or kind == "M") and not alone:
            words[-1] += sign
        else:
            words.append(sign)
            joined = not alone
    return words


@dataclass(frozen=True, slots=True)
class _UnicodeTokenizer:
    """As rouge-score asks for it."""

    def tokenize(self, text: str) -> list[str]:
        """The words of a text."""
        return unicode_words(text)


def rouge_l(words: RougeWords, generated: str, answers: Sequence[str]) -> float:
    """The F measure of the longest common subsequence of words with the best of the right answers, in [0, 1].

    Raises:
        ConfigError: rouge-score is not installed.
    """
    return float(_scorer(words).score_multi(list(answers), generated)["rougeL"].fmeasure)


def rouge_signature(words: RougeWords) -> str:
    """What a score was computed with, for records."""
    from importlib.metadata import version

    tokenizer = "unicode" if words == "unicode" else "rouge-score"
    return f"rougeL|measure:f|best:reference|stemmer:no|tok:{tokenizer}|rouge-score:{version('rouge-score')}"


@cache
def _scorer(words: RougeWords) -> Any:
    scorer = optional_package("rouge_score.rouge_scorer", "rouge-score", "ROUGE-L")
    return scorer.RougeScorer(["rougeL"], tokenizer=_UnicodeTokenizer() if words == "unicode" else None)
