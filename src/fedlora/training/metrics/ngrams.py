# SPDX-License-Identifier: Apache-2.0
"""BLEU and chrF from sums of counts, so that the scores of parts add up to sacrebleu's corpus score of the whole."""

from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any, Final, Literal

from fedlora.core.metrics import Sums
from fedlora.training.metrics.optional import optional_package

BleuTokenizer = Literal["13a", "intl", "char", "zh"]
"""sacrebleu's: 13a for languages that separate words, intl for their punctuation in Unicode, char, zh for Chinese."""

_WORDS: Final = range(1, 5)
"""Lengths of BLEU's n-grams."""
_CHARACTERS: Final = range(1, 7)
"""Lengths of chrF's n-grams."""
_BETA: Final = 2
"""How much more recall counts than precision in chrF."""


def bleu_counts(tokenizer: BleuTokenizer, generated: str, answers: Sequence[str]) -> dict[str, float]:
    """Matches and totals of 1- to 4-grams, and the lengths of generation and closest right answer, in words.

    Raises:
        ConfigError: sacrebleu is not installed.
    """
    found = _bleu(tokenizer).corpus_score([generated], [[answer] for answer in answers])
    matches = {f"bleu.matches.{n}": count for n, count in zip(_WORDS, found.counts, strict=True)}
    totals = {f"bleu.totals.{n}": count for n, count in zip(_WORDS, found.totals, strict=True)}
    return {**matches, **totals, "bleu.length": found.sys_len, "bleu.reference_length": found.ref_len}


def bleu(sums: Sums) -> float:
    """sacrebleu's corpus score with its default smoothing, divided by 100."""
    from sacrebleu.metrics.bleu import BLEU

    counts = [[round(sums.get(f"bleu.{kind}.{n}", 0)) for n in _WORDS] for kind in ("matches", "totals")]
    lengths = (round(sums.get(f"bleu.{name}", 0)) for name in ("length", "reference_length"))
    return float(BLEU.compute_bleu(*counts, *lengths, smooth_method="exp").score) / 100.0


def bleu_signature(tokenizer: BleuTokenizer, references: int | None) -> str:
    """sacrebleu's signature.

    Args:
        tokenizer: of sacrebleu.
        references: right answers of each example; None: their number varies.
    """
    return "BLEU|" + _signature(_bleu_of(tokenizer), references)


def chrf_signature(references: int | None) -> str:
    """sacrebleu's signature of chrF2; see `bleu_signature`."""
    chrf = optional_package("sacrebleu.metrics.chrf", "sacrebleu", "chrF").CHRF()
    return "chrF2|" + _signature(chrf, references)


def chrf_counts(generated: str, answers: Sequence[str]) -> dict[str, float]:
    """1- to 6-grams of characters, white space left out: of the generation, of the best right answer, in both."""
    ours = _grams(generated)
    best, best_score = [(0, 0, 0)] * len(_CHARACTERS), -1.0
    for answer in answers:
        counts = [_common(mine, theirs) for mine, theirs in zip(ours, _grams(answer), strict=True)]
        if (score := _f_measure(counts)) > best_score:
            best, best_score = counts, score
    kinds = ("generated", "reference", "matches")
    return {
        f"chrf.{kind}.{n}": count
        for n, counts_of_n in zip(_CHARACTERS, best, strict=True)
        for kind, count in zip(kinds, counts_of_n, strict=True)
    }


def chrf(sums: Sums) -> float:
    """sacrebleu's corpus score of chrF2, divided by 100."""
    kinds = ("generated", "reference", "matches")
    counts = [tuple(round(sums.get(f"chrf.{kind}.{n}", 0)) for kind in kinds) for n in _CHARACTERS]
    return _f_measure([(mine, theirs, both) for mine, theirs, both in counts])


def _grams(text: str) -> list[Counter[str]]:
    signs = "".join(text.split())
    return [Counter(signs[start : start + n] for start in range(len(signs) - n + 1)) for n in _CHARACTERS]


def _common(ours: Counter[str], theirs: Counter[str]) -> tuple[int, int, int]:
    """(ours, theirs, both); ours do not count where an answer is too short to have any."""
    return (ours.total() if theirs else 0), theirs.total(), (ours & theirs).total()


def _f_measure(counts: Sequence[tuple[int, int, int]]) -> float:
    """F of the mean precision and the mean recall over the lengths of n-grams that both texts have."""
    told = [(both / mine, both / theirs) for mine, theirs, both in counts if mine and theirs]
    if not told:
        return 0.0
    precision, recall = (sum(values) / len(told) for values in zip(*told, strict=True))
    if not precision + recall:
        return 0.0
    return float((1 + _BETA**2) * precision * recall / (_BETA**2 * precision + recall))


def _bleu_of(tokenizer: BleuTokenizer) -> Any:
    return optional_package("sacrebleu.metrics.bleu", "sacrebleu", "BLEU").BLEU(tokenize=tokenizer, force=True)


@cache
def _bleu(tokenizer: BleuTokenizer) -> Any:
    return _bleu_of(tokenizer)


def _signature(metric: Any, references: int | None) -> str:
    """A metric knows its signature once it has scored something."""
    if references is None:
        metric.corpus_score(["a", "a"], [["a", "a"], ["a", None]])
    else:
        metric.corpus_score(["a"], [["a"]] * references)
    return str(metric.get_signature().format())
