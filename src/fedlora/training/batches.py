# SPDX-License-Identifier: Apache-2.0
"""Which examples make a batch, and a batch as padded tensors."""

import math
from collections.abc import Iterator

import numpy
import torch
from torch import Tensor

from fedlora.core.rounds import Duration
from fedlora.core.seeds import numpy_stream
from fedlora.training.data.split import Indices
from fedlora.training.encoding.tokens import Tokens


def padded(tokens: Tokens, examples: Indices, padding: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Token ids and mask of some examples, both (examples, longest), padded to the longest of them."""
    longest = int(tokens.lengths[examples].max())
    ids = numpy.full((len(examples), longest), padding, dtype=numpy.int64)
    mask = numpy.zeros((len(examples), longest), dtype=numpy.int64)
    for row, example in enumerate(examples):
        found = tokens[example]
        ids[row, : len(found)], mask[row, : len(found)] = found, 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


def before_supervised(logits: Tensor, tokens: Tokens, examples: Indices) -> Tensor:
    """Of the logits of a padded batch (examples, tokens, vocabulary) those that predict supervised tokens, example by
    example."""
    places = [torch.from_numpy(tokens.predicting(example)).to(logits.device) for example in examples.tolist()]
    return torch.cat([row[at] for row, at in zip(logits, places, strict=True)])


def step_count(examples: int, size: int, duration: Duration) -> int:
    """How many batches a fit on so many examples has."""
    per_epoch = math.ceil(examples / size)
    return duration.steps if duration.steps is not None else per_epoch * (duration.epochs or 0)


def batches(
    examples: Indices, size: int, duration: Duration, seed: int, stream: tuple[str, int, str]
) -> Iterator[Indices]:
    """The batches of a fit: each epoch in another order; the last batch of an epoch may be small."""
    per_epoch = math.ceil(len(examples) / size)
    for step in range(step_count(len(examples), size, duration)):
        epoch, place = divmod(step, per_epoch)
        if place == 0:
            order = numpy_stream(seed, *stream, epoch).permutation(examples)
        yield order[place * size : (place + 1) * size]
