# SPDX-License-Identifier: Apache-2.0
"""How well a model predicts given texts, token by token: loss, perplexity, bits per byte, token accuracy.

All are quotients of sums over everything that was scored, so that long and short examples, batches and clients count
by what they hold: the mean of batch means is another number, and depends on how batches were cut.
"""

import math
from typing import Final

from fedlora.core.metrics import Metric, Range, Scoring, Sums

LOSS, TOKENS, HITS, BYTES = "loss", "tokens", "hits", "bytes"
"""Sums over an example's supervised tokens: negative log-likelihood in nats, their number, how many the model ranks
first; and the UTF-8 bytes of their text."""

_LARGEST_EXPONENT: Final = 700.0
"""Above which a perplexity is no number of float64."""


def loss_a_token(sums: Sums) -> float | None:
    """Mean negative log-likelihood of a supervised token, in nats; None without tokens."""
    tokens = sums.get(TOKENS, 0)
    return sums.get(LOSS, 0.0) / tokens if tokens else None


def perplexity(sums: Sums) -> float | None:
    """exp(loss a token); None without tokens."""
    loss = loss_a_token(sums)
    return None if loss is None else math.exp(min(loss, _LARGEST_EXPONENT))


def bits_per_byte(sums: Sums) -> float | None:
    """Negative log-likelihood in bits for each byte of the text; comparable between tokenizers. None without bytes.

    The end-of-text token has a likelihood and no bytes.
    """
    count = sums.get(BYTES, 0)
    return sums.get(LOSS, 0.0) / math.log(2) / count if count else None


def token_accuracy(sums: Sums) -> float | None:
    """The share of supervised tokens that the model, given all before, ranks first; None without tokens."""
    tokens = sums.get(TOKENS, 0)
    return sums.get(HITS, 0) / tokens if tokens else None


def prediction_scoring(max_length: int) -> Scoring:
    """The metrics of predicted tokens, loss a token first.

    Args:
        max_length: the most tokens that an example has.
    """
    sums: dict[str, Range] = {
        LOSS: (0.0, math.inf),
        TOKENS: (0.0, float(max_length)),
        HITS: (0.0, float(max_length)),
        BYTES: (0.0, math.inf),
    }
    metrics = (
        Metric("loss", False, loss_a_token, "plain", "loss a token, nats"),
        Metric("perplexity", False, perplexity, "plain", "perplexity"),
        Metric("bits_per_byte", False, bits_per_byte, "plain", "bits per byte"),
        Metric("token_accuracy", True, token_accuracy, "percent", "token accuracy, %"),
    )
    return Scoring(metrics, sums)
