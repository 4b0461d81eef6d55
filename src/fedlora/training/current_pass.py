# SPDX-License-Identifier: Apache-2.0
"""The one thing that hooks inside a resident model know of the pass under way in their thread."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

Addition = Callable[[Tensor], Tensor]
"""What a map's output gets, (..., d_out), given its input, (..., d_in)."""
Group = tuple[int, int, int]
"""Sequences of one length in a pack: (first token, sequences, tokens of each)."""


@dataclass(slots=True, eq=False)
class Pass:
    """One forward pass of the model, besides its inputs."""

    additions: Mapping[str, Addition] = field(default_factory=dict)
    """By map, what its adapter adds; a map that is not named gives the base's output."""
    groups: tuple[Group, ...] | None = None
    """The sequences of a pack; None: a padded batch."""
    given: Tensor | None = None
    """A last hidden state to take in place of running the layers."""
    hidden: Tensor | None = None
    """The last hidden state of a pack, once its layers have run."""
    cast: tuple[Tensor, Tensor] | None = None
    """The last input of a map that was cast, and the same in another type: query, key and value read one input."""

    def in_type(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """An input of a map in a type, cast once for all maps in a row that read it."""
        if x.dtype == dtype:
            return x
        if self.cast is None or self.cast[0] is not x or self.cast[1].dtype != dtype:
            self.cast = x, x.to(dtype)
        return self.cast[1]


class _Current(threading.local):
    now = Pass()


_current = _Current()


def current() -> Pass:
    """The pass that this thread has under way; outside of any, one that changes nothing."""
    return _current.now


@contextmanager
def running(now: Pass) -> Iterator[Pass]:
    """Make a pass this thread's current one for the time of the block."""
    before, _current.now = _current.now, now
    try:
        yield now
    finally:
        _current.now = before
