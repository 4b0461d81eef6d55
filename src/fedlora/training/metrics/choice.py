# SPDX-License-Identifier: Apache-2.0
"""Choice by log-likelihood: the share of examples whose right answer a model finds more likely than the other choices.

The likelihood is that of a choice's tokens behind the prompt, the token that would end the answer left out, as
lm-evaluation-harness has it for `acc` and (but that it divides by characters) `acc_norm`. By the sum, short choices
have an advantage, and a choice with which another one begins is the more likely of the two; the likelihood a byte does
not favour short choices.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from fedlora.core.metrics import Metric, Sums, mean_of
from fedlora.training.metrics.answer import AnswerMetric

ChoiceMetricName = Literal["choice", "choice_per_byte"]
CHOICE_METRICS: Final[tuple[ChoiceMetricName, ...]] = get_args(ChoiceMetricName)


@dataclass(frozen=True, slots=True)
class Choice:
    """A text among which a model chooses."""

    text: str
    log_likelihood: float
    """In nats, summed over the text's tokens behind the prompt."""

    @property
    def per_byte(self) -> float:
        """Nats for each UTF-8 byte of the text."""
        return self.log_likelihood / len(self.text.encode())


@dataclass(frozen=True, slots=True)
class ChoiceMetric(AnswerMetric):
    """One metric of chosen answers."""

    chosen: Callable[[Sequence[Choice]], Choice | None]
    """Which of the choices (at least two) the model takes; None: its numbers are not finite."""

    def count(self, choices: Sequence[Choice], right_answers: Sequence[str]) -> Sums:
        """The sums of one example: 1 where the chosen text is one of the right answers."""
        chosen = self.chosen(choices)
        return {self.metric.name: int(chosen is not None and chosen.text in right_answers)}


def most_likely(choices: Sequence[Choice]) -> Choice | None:
    """The choice of the largest likelihood, of equal ones the first; None where one is not finite."""
    return _largest(choices, [choice.log_likelihood for choice in choices])


def most_likely_per_byte(choices: Sequence[Choice]) -> Choice | None:
    """The choice of the largest likelihood a byte, of equal ones the first; None where one is not finite."""
    return _largest(choices, [choice.per_byte for choice in choices])


def choice_metric(name: ChoiceMetricName) -> ChoiceMetric:
    """A metric by its name."""
    how, title, chosen = _KNOWN[name]
    signature = f"log-likelihood of the choice behind the prompt|{how}|end-of-text left out"
    metric = Metric(name, True, mean_of(name), "percent", title)
    return ChoiceMetric(metric, {name: (0.0, 1.0)}, signature, share=True, chosen=chosen)


_KNOWN: Final[Mapping[ChoiceMetricName, tuple[str, str, Callable[[Sequence[Choice]], Choice | None]]]] = {
    "choice": ("summed over tokens", "right choices, %", most_likely),
    "choice_per_byte": ("for each byte", "right choices by likelihood a byte, %", most_likely_per_byte),
}


def _largest(choices: Sequence[Choice], values: Sequence[float]) -> Choice | None:
    if not all(map(math.isfinite, values)):
        return None
    return choices[max(range(len(values)), key=values.__getitem__)]
