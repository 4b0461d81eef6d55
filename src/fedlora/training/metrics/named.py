# SPDX-License-Identifier: Apache-2.0
"""All metrics of answers by name, and the sums of an answer."""

from collections.abc import Sequence

from fedlora.core.metrics import Sums
from fedlora.training.metrics.answer import AnswerMetric
from fedlora.training.metrics.choice import CHOICE_METRICS, Choice, ChoiceMetric, choice_metric
from fedlora.training.metrics.generation import GenerationMetric, generation_metrics, generation_sums


def named_metrics(names: Sequence[str], references: int | None = None) -> tuple[AnswerMetric, ...]:
    """Metrics of generated and of chosen answers, in the order given.

    Args:
        names: of `GenerationMetricName` or `ChoiceMetricName`.
        references: right answers of each example, for signatures; None: their number varies.

    Raises:
        ConfigError: a name is unknown, or a package that it needs is not installed.
    """
    choices = {name: choice_metric(name) for name in CHOICE_METRICS}
    return tuple(
        metric
        for name in names
        for metric in ([choices[name]] if name in choices else generation_metrics([name], references=references))
    )


def generated(metrics: Sequence[AnswerMetric]) -> tuple[GenerationMetric, ...]:
    """The metrics of generated answers among others."""
    return tuple(metric for metric in metrics if isinstance(metric, GenerationMetric))


def chosen(metrics: Sequence[AnswerMetric]) -> tuple[ChoiceMetric, ...]:
    """The metrics of chosen answers among others."""
    return tuple(metric for metric in metrics if isinstance(metric, ChoiceMetric))


def answer_sums(
    metrics: Sequence[AnswerMetric], text: str | None, choices: Sequence[Choice], right_answers: Sequence[str]
) -> Sums:
    """The sums of one example.

    Args:
        metrics: whose sums they are.
        text: what was generated; None: nothing, and no metric asks for it.
        choices: the texts to choose among; empty: no metric asks for them.
        right_answers: all texts that count as right.
    """
    sums = {} if text is None else dict(generation_sums(generated(metrics), text, right_answers))
    for metric in chosen(metrics):
        sums |= metric.count(choices, right_answers)
    return sums
