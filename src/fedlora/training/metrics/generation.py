# SPDX-License-Identifier: Apache-2.0
"""The metrics of generated texts by name, each as sums over examples with a value, an interval and a signature.

All values lie in [0, 1]; BLEU and chrF are sacrebleu's scores divided by 100.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

from fedlora.core.metrics import Metric, Sums, mean_of
from fedlora.errors import ConfigError, nearest
from fedlora.training.metrics.answer import AnswerMetric
from fedlora.training.metrics.choice import CHOICE_METRICS
from fedlora.training.metrics.exact import exact_match, gsm8k_flexible, gsm8k_strict
from fedlora.training.metrics.ngrams import (
    BleuTokenizer,
    bleu,
    bleu_counts,
    bleu_signature,
    chrf,
    chrf_counts,
    chrf_signature,
)
from fedlora.training.metrics.rouge import RougeWords, rouge_l, rouge_signature

GenerationMetricName = Literal["exact_match", "rouge_l", "bleu", "chrf", "gsm8k_strict", "gsm8k_flexible"]


@dataclass(frozen=True, slots=True)
class GenerationMetric(AnswerMetric):
    """One metric of generated texts."""

    count: Callable[[str, Sequence[str]], Sums]
    """The sums of one example: its generation and all right answers (at least one)."""


def generation_metrics(
    names: Sequence[str],
    *,
    rouge_words: RougeWords = "unicode",
    bleu_tokenizer: BleuTokenizer = "13a",
    references: int | None = None,
) -> tuple[GenerationMetric, ...]:
    """Metrics by name, in the order given.

    Args:
        names: of `GenerationMetricName`.
        rouge_words: what ROUGE-L takes as words.
        bleu_tokenizer: what BLEU takes as words.
        references: right answers of each example, for sacrebleu's signature; None: their number varies.

    Raises:
        ConfigError: a name is unknown, or a package that it needs is not installed.
    """
    known: Mapping[str, Callable[[], GenerationMetric]] = {
        "exact_match": partial(_share, "exact_match", exact_match, "exact match, %", "exact match|stripped"),
        "gsm8k_strict": partial(_share, "gsm8k_strict", gsm8k_strict, "GSM8K strict, %", "lm-eval gsm8k strict-match"),
        "gsm8k_flexible": partial(
            _share, "gsm8k_flexible", gsm8k_flexible, "GSM8K flexible, %", "lm-eval gsm8k flexible-extract"
        ),
        "rouge_l": partial(_rouge, rouge_words),
        "bleu": partial(_bleu, bleu_tokenizer, references),
        "chrf": partial(_chrf, references),
    }
    for name in names:
        if name not in known:
            raise ConfigError(
                f"evaluate.metrics names {name!r}, which is no metric of answers: "
                f"{nearest(name, (*get_args(GenerationMetricName), *CHOICE_METRICS))}"
            )
    return tuple(known[name]() for name in names)


def generation_sums(metrics: Sequence[GenerationMetric], generated: str, answers: Sequence[str]) -> Sums:
    """The sums of one example for all metrics."""
    return {name: value for metric in metrics for name, value in metric.count(generated, answers).items()}


def _share(name: str, is_right: Callable[[str, Sequence[str]], bool], title: str, signature: str) -> GenerationMetric:
    def count(generated: str, answers: Sequence[str]) -> Sums:
        return {name: int(is_right(generated, answers))}

    metric = Metric(name, True, mean_of(name), "percent", title)
    return GenerationMetric(metric, {name: (0.0, 1.0)}, signature, share=True, count=count)


def _rouge(words: RougeWords) -> GenerationMetric:
    def count(generated: str, answers: Sequence[str]) -> Sums:
        return {"rouge_l": rouge_l(words, generated, answers)}

    count("a", ["a"])  # whether the package is there is known before a run, not after its first round
    metric = Metric("rouge_l", True, mean_of("rouge_l"), "percent", "ROUGE-L")
    return GenerationMetric(metric, {"rouge_l": (0.0, 1.0)}, rouge_signature(words), share=False, count=count)


def _bleu(tokenizer: BleuTokenizer, references: int | None) -> GenerationMetric:
    count = partial(bleu_counts, tokenizer)
    metric = Metric("bleu", True, bleu, "percent", "BLEU")
    ranges = dict.fromkeys(count("a", ["a"]), (0.0, math.inf))
    return GenerationMetric(metric, ranges, bleu_signature(tokenizer, references), share=False, count=count)


def _chrf(references: int | None) -> GenerationMetric:
    metric = Metric("chrf", True, chrf, "percent", "chrF")
    ranges = dict.fromkeys(chrf_counts("a", ["a"]), (0.0, math.inf))
    return GenerationMetric(metric, ranges, chrf_signature(references), share=False, count=chrf_counts)
