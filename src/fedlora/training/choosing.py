# SPDX-License-Identifier: Apache-2.0
"""How likely a model finds each of the texts among which examples are answered, by the forward pass that scores."""

from functools import partial

import numpy
import torch
from numpy.typing import NDArray

from fedlora.core.adapter import Start
from fedlora.training.data.split import Indices
from fedlora.training.encoding.tokens import Choices, Tokens
from fedlora.training.forward.protocol import Forward
from fedlora.training.memory import Portions
from fedlora.training.metrics.choice import Choice
from fedlora.training.tasks.causal_lm import log_likelihoods


def weighed(
    forward: Forward, choices: Choices, examples: Indices, start: Start, portions: Portions
) -> list[tuple[Choice, ...]]:
    """Of every example its choices with their likelihoods, in the order of the data.

    Args:
        forward: of a language model.
        choices: of all examples.
        examples: which of them.
        start: the model, on the base's device.
        portions: how many texts fit into a pass.
    """
    sequences = choices.of(examples)
    order = numpy.argsort(choices.tokens.lengths[sequences], kind="stable")
    values = numpy.zeros(len(sequences), dtype=numpy.float64)
    first = 0
    with torch.inference_mode():
        for piece in forward.pieces(choices.tokens, sequences[order]):
            found = portions.run(len(piece), partial(_of_piece, forward, choices.tokens, piece, start))
            values[order[first : first + len(piece)]] = found
            first += len(piece)
    texts = (Choice(choices.texts[n], value) for n, value in zip(sequences.tolist(), values.tolist(), strict=True))
    counts = numpy.diff(choices.starts)[examples].tolist()
    return [tuple(next(texts) for _ in range(count)) for count in counts]


def _of_piece(forward: Forward, tokens: Tokens, piece: Indices, start: Start, size: int) -> NDArray[numpy.float64]:
    """The log-likelihood of every text of a piece, so many in a pass."""
    found = []
    for first in range(0, len(piece), size):
        some = piece[first : first + size]
        for _, outputs in forward.outputs(tokens, [start], [some]):
            found.append(log_likelihoods(outputs, tokens, some).numpy())
    return numpy.concatenate(found)
