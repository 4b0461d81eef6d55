# SPDX-License-Identifier: Apache-2.0
"""Answers that a model generates to the examples on which it is scored, each generated once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from fedlora.core.adapter import AdapterSpec
from fedlora.core.metrics import Score, Sums
from fedlora.core.rounds import ScorePart
from fedlora.training.bases.model import Base
from fedlora.training.data.scored_parts import ScoredPart
from fedlora.training.encoding.tokens import Tokens
from fedlora.training.generation import Generated, Limits, decoded, generate
from fedlora.training.memory import Portions
from fedlora.training.metrics.generation import GenerationMetric, generation_sums


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model answered to one example."""

    example: int
    """Its number among the data's test examples, or of a validation part among the training examples, from 0."""
    prompt: str
    """What the model was given, special tokens included."""
    text: str
    """Without special tokens."""
    right_answers: tuple[str, ...]
    """All texts that count as right."""
    sums: Sums
    """What it adds to the score."""


class AnswerScorer:
    """Scores a model by the answers that it generates. Several threads may use it.

    It remembers, of each client's part, the answers of the last two models that were asked: as the client's and as the
    global one. What is generated does not depend on what is remembered.

    Args:
        base: a language model.
        spec: the adapter.
        metrics: what is counted of each answer, at least one.
        max_length: the most tokens of prompt and answer together.
        most_new_tokens: the most tokens of an answer; None: as many as there is room for.
    """

    def __init__(
        self,
        base: Base,
        spec: AdapterSpec,
        metrics: Sequence[GenerationMetric],
        max_length: int,
        most_new_tokens: int | None = None,
    ) -> None:
        self._base, self._spec, self._metrics = base, spec, tuple(metrics)
        self._max_length, self._most_new_tokens = max_length, most_new_tokens
        self._portions = Portions(None, "the batch of generated answers")
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
        count = len(asked.examples)
        found = self._portions.run(count, partial(self._generated, asked)) if count else []
        pairs = zip(asked.examples.tolist(), found, strict=True)
        answers = [self._answer(asked.tokens, example, one.text) for example, one in pairs]
        self._known[asked.client, asked.part, asked.globally] = (asked.model, answers)
        return answers

    def _answer(self, tokens: Tokens, example: int, text: str) -> Answer:
        right = tokens.right_answers_of(example)
        prompt = decoded(self._base.tokenizer, tokens.prompt(example).tolist(), special=True)
        return Answer(example, prompt, text, right, generation_sums(self._metrics, text, right))

    def forget(self) -> None:
        """Drop everything."""
        self._known.clear()

    def _generated(self, asked: ScoredPart, size: int) -> list[Generated]:
        """What is generated, for so many examples at a time."""
        limits = Limits(asked.tokens.stops, self._max_length, self._most_new_tokens)
        prompts = [asked.tokens.prompt(example) for example in asked.examples.tolist()]
        portions = [prompts[first : first + size] for first in range(0, len(prompts), size)]
        return [one for portion in portions for one in generate(self._base, self._spec, asked.start, portion, limits)]
