# SPDX-License-Identifier: Apache-2.0
"""Greedy generation by a base with an adapter: batched, with a cache, merged updates included.

The decoding is transformers' own `generate`; what a checkpoint recommends for sampling, penalties or lengths is left
aside. Prompts stand at the right end of a padded batch, so that what is generated follows them directly. A prompt's
answer depends on the rest of its batch by the rounding of sums alone.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedlora.core.adapter import AdapterSpec, Start, additions
from fedlora.training.bases.maps import addition, encoder_of
from fedlora.training.bases.model import Base
from fedlora.training.forward.current_pass import Pass, running
from fedlora.training.forward.layers import Layers

_TOKENS: Final = {"cuda": 131_072}
"""Tokens of a batch, generated ones included, by kind of device."""
_TOKENS_ELSEWHERE: Final = 8_192


@dataclass(frozen=True, slots=True)
class Limits:
    """Where a generation ends."""

    stops: tuple[int, ...]
    """The ids that end it."""
    max_length: int
    """The most tokens of prompt and answer together."""
    most_new_tokens: int | None = None
    """The most tokens of an answer; None: as many as there is room for."""

    def room(self, prompt: int) -> int:
        """How many tokens may follow a prompt of so many."""
        free = max(self.max_length - prompt, 0)
        return free if self.most_new_tokens is None else min(free, self.most_new_tokens)


@dataclass(frozen=True, slots=True)
class Generated:
    """What a model writes behind a prompt."""

    ids: tuple[int, ...]
    """Without the one that ended it."""
    text: str
    """Without special tokens."""
    ended: bool
    """Whether the model ended it; otherwise there was no more room."""


@dataclass(slots=True)
class _Answer:
    """A prompt with what has been generated of its answer so far."""

    prompt: list[int]
    room: int
    """How many tokens its answer may have."""
    new: list[int] = field(default_factory=list)
    ended: bool = False

    @property
    def ids(self) -> list[int]:
        return self.prompt + self.new

    @property
    def left(self) -> int:
        """How many more tokens may come; 0: none will."""
        return 0 if self.ended else self.room - len(self.new)

    def extend(self, tokens: Sequence[int], stops: Sequence[int]) -> None:
        """Add generated tokens up to the first that ends the answer."""
        for token in tokens:
            if token in stops:
                self.ended = True
                return
            self.new.append(token)


def generate(
    base: Base, spec: AdapterSpec, start: Start, prompts: Sequence[NDArray[numpy.int32]], limits: Limits
) -> list[Generated]:
    """The greedy continuation of every prompt.

    Args:
        base: a language model.
        spec: what the adapter is.
        start: the adapter with what was merged, on the base's device.
        prompts: token ids, none empty.
        limits: where generations end.
    """
    answers = [_Answer(prompt.tolist(), limits.room(len(prompt))) for prompt in prompts]
    model = _Greedy(base, spec, start, limits.stops)
    most = _TOKENS.get(model.device.type, _TOKENS_ELSEWHERE)
    while waiting := [answer for answer in answers if answer.left]:
        for batch in _batches(waiting, most):
            steps = min(answer.left for answer in batch)
            for answer, tokens in zip(batch, model.continued([answer.ids for answer in batch], steps), strict=True):
                answer.extend(tokens, limits.stops)
    return [Generated(tuple(a.new), decoded(base.tokenizer, a.new), a.ended) for a in answers]


def _batches(answers: Sequence[_Answer], most: int) -> Iterator[list[_Answer]]:
    """Answers by length, so many in a batch as have at most so many tokens in the end, at least one.

    A batch ends with its least room; those that may go on do so in a batch to come. None has less than half of the
    room of another, so that few have to.
    """
    batch: list[_Answer] = []
    for answer in sorted(answers, key=lambda each: len(each.ids)):
        tokens = (len(batch) + 1) * (len(answer.ids) + answer.left)
        if batch and (tokens > most or not batch[0].left / 2 <= answer.left <= 2 * batch[0].left):
            yield batch
            batch = []
        batch.append(answer)
    if batch:
        yield batch


class _Greedy:
    """A base with an adapter as transformers generates with it."""

    def __init__(self, base: Base, spec: AdapterSpec, start: Start, stops: Sequence[int]) -> None:
        self._base, self._stops = base, list(stops)
        self._model = _undecided(base.model)
        self._additions: Mapping[str, Any] = {}
        self._values = base.head_values(start)
        if spec.kind == "dense":
            self._values |= base.moved(start, spec)
        else:
            parts = additions(start, spec).items()
            self._additions = {name: addition(part, spec.scale, 0.0) for name, part in parts}

    @property
    def device(self) -> torch.device:
        """Where the base is."""
        return next(self._base.model.parameters()).device

    def continued(self, prompts: Sequence[Sequence[int]], steps: int) -> list[list[int]]:
        """What follows each prompt: its end with whatever is behind it, or `steps` tokens."""
        from transformers import GenerationConfig

        ids, mask = left_padded(prompts, self._base.padding)
        asked = GenerationConfig(
            max_new_tokens=steps,
            do_sample=False,
            num_beams=1,
            use_cache=True,
            eos_token_id=self._stops,
            pad_token_id=self._base.padding,
        )
        inputs = {"input_ids": ids.to(self.device), "attention_mask": mask.to(self.device), "generation_config": asked}
        with running(Pass(self._additions)), torch.inference_mode(), self._alone():
            values = {f"model.{name}": value for name, value in self._values.items()}
            if values:
                found = torch.func.functional_call(_Generate(self._model), values, args=(), kwargs=inputs)
            else:
                found = self._model.generate(**inputs)
        new: list[list[int]] = found[:, ids.shape[1] :].tolist()
        return new

    def _alone(self) -> AbstractContextManager[object]:
        """Where parameters are put into the one model, no other thread may use it meanwhile."""
        return Layers.of(encoder_of(self._base.model)).alone if self._values else nullcontext()


class _Generate(nn.Module):
    """`generate` as a module's forward, so that parameters can be put in the place of the resident ones for it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Any) -> Tensor:
        """The prompts with what was generated."""
        found: Tensor = self.model.generate(**inputs)
        return found


def left_padded(rows: Sequence[Sequence[int]], padding: int) -> tuple[Tensor, Tensor]:
    """Ids (rows, tokens) with padding before the shorter ones, and the mask, 1 where a token is real."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), padding, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, width - len(row) :] = torch.tensor(row, dtype=torch.long)
        mask[number, width - len(row) :] = 1
    return ids, mask


def _undecided(model: nn.Module) -> Any:
    """The same model, with the same weights, that recommends nothing of its own about generation.

    What a generation does not say, transformers takes from the model: penalties, suppressed tokens, sampling.
    """
    from transformers import GenerationConfig

    same: Any = copy.copy(model)
    same.generation_config = GenerationConfig()
    return same


def decoded(tokenizer: Any, ids: Sequence[int], *, special: bool = False) -> str:
    """The text of token ids as it is, its special tokens left out or written."""
    return str(tokenizer.decode(ids, skip_special_tokens=not special, clean_up_tokenization_spaces=False))
