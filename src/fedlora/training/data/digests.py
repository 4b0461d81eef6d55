# SPDX-License-Identifier: Apache-2.0
"""Digests: of a run's examples by token ids, labels and owners; of a model by its numbers."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlora.core.adapter import Start
from fedlora.core.lowrank import LowRank
from fedlora.training.data.split import Split
from fedlora.training.encoding.tokens import Tokens


def example_digests(train: Tokens, test: Tokens, split: Split) -> dict[str, str]:
    """SHA-256 in hex of all that training and scores see of the examples.

    Args:
        train: of the training set; none where the examples stay with their owners.
        test: of the test set.
        split: who owns which of them, not yet centralized.

    Returns:
        Three digests: `train` and `test` (token ids, where each example ends, labels, right answers, choices) and
        `owners` (every client's name, the numbers of its training, validation and test examples, and what it calls the
        labels).
    """
    return {"train": _of_tokens(train), "test": _of_tokens(test), "owners": _of_split(split)}


def model_digest(start: Start) -> bytes:
    """SHA-256 of a model's adapter, head and merged update: names, types, shapes and every bit of the numbers.

    Models with one digest give the same logits on one base; two that differ in a single number have two.
    """
    digest = hashlib.sha256(start.adapter.kind.encode())
    for name, tensor in _tensors(start):
        digest.update(f"{name!r} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        numbers = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(numbers.numpy().data)
    return digest.digest()


def _tensors(start: Start) -> Iterator[tuple[str, Tensor]]:
    """All tensors of a model, each under a name that no other has."""
    adapter = start.adapter
    for part, tensors in (("input", adapter.input), ("output", adapter.output), ("dense", adapter.dense)):
        yield from ((f"{part} {name}", tensors[name]) for name in sorted(tensors))
    for module in sorted(start.merged):
        value = start.merged[module]
        pair = {"A": value.A, "B": value.B} if isinstance(value, LowRank) else {"dense": value}
        yield from ((f"merged {side} {module}", tensor) for side, tensor in pair.items())


def _of_tokens(tokens: Tokens) -> str:
    digest = hashlib.sha256()
    for numbers in (tokens.ids, tokens.starts, tokens.labels):
        _add(digest, numbers)
    if tokens.right_answers is not None:
        digest.update(json.dumps(tokens.right_answers).encode())
    if tokens.choices is not None:
        digest.update(json.dumps(tokens.choices.texts).encode())
        for numbers in (tokens.choices.starts, tokens.choices.tokens.ids, tokens.choices.tokens.starts):
            _add(digest, numbers)
    return digest.hexdigest()


def _of_split(split: Split) -> str:
    digest = hashlib.sha256()
    named = [(f"{client!r}\n", part) for client, part in sorted(split.clients.items())]
    named += [(f"unseen {client!r}\n", part) for client, part in sorted(split.unseen.items())]
    for name, part in named:
        digest.update(name.encode())
        for numbers in (part.train, part.validation, part.test, part.label_permutation):
            _add(digest, numbers if numbers is not None else numpy.zeros(0, dtype=numpy.int64))
    return digest.hexdigest()


def _add(digest: Any, numbers: NDArray[numpy.int32] | NDArray[numpy.int64]) -> None:
    """Add an array, its length first: no two lists of arrays have the same bytes."""
    width = "<i4" if numbers.dtype == numpy.int32 else "<i8"  # little endian, as on nearly every machine
    digest.update(f"{len(numbers)} {width}\n".encode())
    digest.update(numpy.ascontiguousarray(numbers, dtype=width).data)
