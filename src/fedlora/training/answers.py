# SPDX-License-Identifier: Apache-2.0
"""Answers that a model generates or chooses to the examples on which it is scored, each made once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from fedlora.core.metrics import Score, Sums
from fedlora.core.rounds import ScorePart
from fedlora.training.choosing import weighed
from fedlora.training.data.scored_parts import ScoredPart
from fedlora.training.encoding.tokens import Tokens
from fedlora.training.forward.protocol import Forward
from fedlora.training.generation import Generated, Limits, decoded, generate
from fedlora.training.memory import Portions
from fedlora.training.metrics.answer import AnswerMetric
from fedlora.training.metrics.choice import Choice
from fedlora.training.metrics.named import answer_sums, chosen, generated


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model answered to one example."""

    example: int
    """Its number among the data's test examples, or of a validation part among the training examples, from 0."""
    prompt: str
    """What the model was given, special tokens included."""
    text: str | None
    """What was generated, without special tokens; None: nothing was."""
    choices: tuple[Choice, ...]
    """The texts among which the model chose, with their likelihoods; empty: it had no choice."""
    right_answers: tuple[str, ...]
    """All texts that count as right."""
    sums: Sums
    """What it adds to the score."""


class AnswerScorer:
    """Scores a model by the answers that it generates or chooses. Several threads may use it.

    It remembers, of each client's part, the answers of the last two models that were asked: as the client's and as the
    global one. What is answered does not depend on what is remembered.

    Args:
        forward: of a language model.
        metrics: what is counted of each answer, at least one.
        max_length: the most tokens of prompt and answer together.
        most_new_tokens: the most tokens of a generated answer; None: as many as there is room for.
    """

    def __init__(
        self,
        forward: Forward,
        metrics: Sequence[AnswerMetric],
        max_length: int,
        most_new_tokens: int | None = None,
    ) -> None:
        self._forward, self._metrics = forward, tuple(metrics)
        self._max_length, self._most_new_tokens = max_length, most_new_tokens
        self._portions = Portions(None, "the batch of generated answers")
        self._choice_portions = Portions(None, "the batch of texts to choose among")
        self._known: dict[tuple[str | None, ScorePart, bool], tuple[bytes, list[Answer]]] = {}

    def score(self, asked: ScoredPart) -> Score:
        """The sums of the answers; their examples are counted by whoever else counts them."""
        return sum((Score(0, answer.sums) for answer in self.answers(asked)), Score(0))

    def answers(self, asked: ScoredPart) -> list[Answer]:
        """An answer to each example, in their order."""
        for globally in (False, True):
            known = self._known.get((asked.client, asked.part, globally))
            if known is not None and known[0] == asked.model:
                return known[1]
        made = zip(asked.examples.tolist(), self._texts(asked), self._choices(asked), strict=True)
        answers = [self._answer(asked.tokens, *one) for one in made]
        self._known[asked.client, asked.part, asked.globally] = (asked.model, answers)
        return answers

    def _texts(self, asked: ScoredPart) -> Sequence[str | None]:
        """What is generated to each example; None where no metric asks for it."""
        count = len(asked.examples)
        if not count or not generated(self._metrics):
            return [None] * count
        return [one.text for one in self._portions.run(count, partial(self._generated, asked))]

    def _choices(self, asked: ScoredPart) -> Sequence[tuple[Choice, ...]]:
        """The choices of each example with their likelihoods; none where no metric asks for them."""
        if not len(asked.examples) or not chosen(self._metrics):
            return [()] * len(asked.examples)
        choices = asked.tokens.choices
        if choices is None:
            raise ValueError("these examples have no texts to choose among")
        return weighed(self._forward, choices, asked.examples, asked.start, self._choice_portions)

    def _answer(self, tokens: Tokens, example: int, text: str | None, choices: tuple[Choice, ...]) -> Answer:
        right = tokens.right_answers_of(example)
        prompt = decoded(self._forward.base.tokenizer, tokens.prompt(example).tolist(), special=True)
        return Answer(example, prompt, text, choices, right, answer_sums(self._metrics, text, choices, right))

    def forget(self) -> None:
        """Drop everything."""
        self._known.clear()

    def _generated(self, asked: ScoredPart, size: int) -> list[Generated]:
        """What is generated, for so many examples at a time."""
        limits = Limits(asked.tokens.stops, self._max_length, self._most_new_tokens)
        prompts = [asked.tokens.prompt(example) for example in asked.examples.tolist()]
        portions = [prompts[first : first + size] for first in range(0, len(prompts), size)]
        base, spec = self._forward.base, self._forward.spec
        return [one for portion in portions for one in generate(base, spec, asked.start, portion, limits)]
