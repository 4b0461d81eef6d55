# SPDX-License-Identifier: Apache-2.0
"""Causal language modelling: every supervised token from those before it."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from fedlora.core.metrics import Scoring, Sums
from fedlora.training.data.split import Indices, Owned
from fedlora.training.encoding.tokens import Tokens
from fedlora.training.forward.outputs import Outputs
from fedlora.training.metrics.answer import AnswerMetric, answer_scoring
from fedlora.training.metrics.predicted import BYTES, HITS, LOSS, TOKENS, prediction_scoring

_LOGITS: Final = 2**22
"""Logits that are held at a time, about: 16 MiB in float32."""


@dataclass(frozen=True)
class CausalLM:
    """The next token of texts, of completions or of an assistant's messages.

    The product with the vocabulary is made for tokens before supervised ones alone, some of them at a time, so that the
    logits of a whole batch never stand in memory at once.

    Args:
        max_length: the most tokens that an example has.
        answers: metrics of generated and of chosen answers, whose sums are counted where answers are made; the first
            is the headline.
    """

    max_length: int
    answers: tuple[AnswerMetric, ...] = ()

    @property
    def name(self) -> str:
        """As records call it."""
        return "language modelling"

    @property
    def chance(self) -> None:
        """None: no loss is that of guessing."""
        return None

    @property
    def scoring(self) -> Scoring:
        """The metrics of answers, then loss a token, perplexity, bits per byte and token accuracy."""
        answers, predicted = answer_scoring(self.answers), prediction_scoring(self.max_length)
        return Scoring(answers.metrics + predicted.metrics, {**answers.sums, **predicted.sums})

    def loss(self, outputs: Outputs, tokens: Tokens, examples: Indices, client: Owned | None) -> Tensor:
        """Cross-entropy in nats, summed over the supervised tokens of the examples."""
        targets = _targets(tokens, examples, outputs.hidden.device)
        if not outputs.hidden.requires_grad and not outputs.trains:
            return sum((_summed(logits, some) for logits, some in _chunks(outputs, targets)), torch.zeros(()))
        if outputs.trains:
            return _recomputed(outputs, targets)
        loss: Tensor = _Chunked.apply(outputs.hidden, outputs, targets)  # type: ignore[no-untyped-call]
        return loss

    def predictions(self, tokens: Tokens, examples: Indices) -> int:
        """The supervised tokens: training goes by the mean over them."""
        return int(tokens.supervised_lengths[examples].sum())

    def names(self, client: Owned | None) -> list[str]:
        """None: the tokenizer says what the logits stand for."""
        return []

    def sums(self, outputs: Outputs, tokens: Tokens, examples: Indices, client: Owned | None) -> Sums:
        """Loss, supervised tokens, those that the model ranks first, and the bytes of their text."""
        targets = _targets(tokens, examples, outputs.hidden.device)
        loss, hits = 0.0, 0
        for logits, some in _chunks(outputs, targets):
            loss += float(_summed(logits, some))
            hits += int((logits.argmax(dim=1) == some).sum())
        told = 0 if tokens.text_bytes is None else int(tokens.text_bytes[examples].sum())
        return {LOSS: loss, TOKENS: len(targets), HITS: hits, BYTES: told}


def log_likelihoods(outputs: Outputs, tokens: Tokens, examples: Indices) -> Tensor:
    """The log-likelihood of the supervised tokens of each example, summed, in nats: (examples,) in float64, on the CPU.

    Args:
        outputs: of the examples, in order.
        tokens: of all examples.
        examples: which of them, each with at least one supervised token.
    """
    targets = _targets(tokens, examples, outputs.hidden.device)
    losses = [functional.cross_entropy(logits, some, reduction="none") for logits, some in _chunks(outputs, targets)]
    ends = numpy.cumsum([len(tokens.predicting(example)) for example in examples.tolist()]).tolist()
    every = torch.cat(losses).cpu().double()  # not every device has float64
    return -torch.stack([every[first:end].sum() for first, end in pairwise([0, *ends])])


class _Chunked(torch.autograd.Function):
    """The loss of some states at a time through a frozen head. The gradient of the states is made on the way there, so
    that no logits wait for the backward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, outputs: Outputs, targets: Tensor) -> Tensor:
        gradient = torch.empty_like(hidden)
        dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        total = torch.zeros((), dtype=dtype, device=hidden.device)
        for first, last in _borders(outputs, len(targets)):
            with torch.enable_grad():
                states = hidden[first:last].detach().requires_grad_()
                loss = _summed(outputs.head(states), targets[first:last])
            (gradient[first:last],) = torch.autograd.grad(loss, states)
            total += loss.detach()
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream.to(gradient.dtype), None, None


def _recomputed(outputs: Outputs, targets: Tensor) -> Tensor:
    """The same where the head trains: logits are made once more in the backward pass."""

    def part(states: Tensor, some: Tensor) -> Tensor:
        return _summed(outputs.head(states), some)

    borders = _borders(outputs, len(targets))
    parts = [checkpoint(part, outputs.hidden[a:b], targets[a:b], use_reentrant=False) for a, b in borders]
    return torch.stack(parts).sum()


def _chunks(outputs: Outputs, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits of some places at a time with their targets."""
    for first, last in _borders(outputs, len(targets)):
        yield outputs.head(outputs.hidden[first:last]), targets[first:last]


def _borders(outputs: Outputs, count: int) -> Iterator[tuple[int, int]]:
    """Where to cut so many places, so that about so many logits are held at a time."""
    size = max(1, _LOGITS // outputs.classes)
    return ((first, min(first + size, count)) for first in range(0, count, size))


def _summed(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(logits, targets, reduction="sum")


def _targets(tokens: Tokens, examples: Indices, device: torch.device) -> Tensor:
    """The supervised tokens, example by example."""
    ids = numpy.concatenate([tokens[example][1:][tokens.mask(example)[1:]] for example in examples.tolist()])
    return torch.from_numpy(ids.astype(numpy.int64)).to(device)
