# SPDX-License-Identifier: Apache-2.0
"""The one thing that hooks inside a resident model know of the pass under way in their thread."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor

Addition = Callable[[Tensor], Tensor]
"""What a map's output gets, (..., d_out), given its input, (..., d_in)."""
Group = tuple[int, int, int]
"""Sequences of one length in a pack: (first token, sequences, tokens of each)."""


@dataclass(frozen=True, slots=True, eq=False)
class ClientOrder:
    """A pack whose tokens lie client by client, and what leads from there to the order by length and back."""

    token_ends: Tensor
    """Of each client, the number of tokens up to its last one, int32; padding counts as one more client."""
    sequence_ends: Tensor
    """The same of sequences."""
    sequence_starts: Tensor
    """Of each sequence, its first token, and at the end the number of all tokens, int32."""
    longest: int
    """Tokens of the longest sequence."""
    to_length: Tensor
    """Of each token in the order by length, its place in the pack."""
    from_length: Tensor
    """Of each token of the pack, its place in the order by length."""


@dataclass(slots=True, eq=False)
class Pass:
    """One forward pass of the model, besides its inputs."""

    additions: Mapping[str, Addition] = field(default_factory=dict)
    """By map, what its adapter adds; a map that is not named gives the base's output."""
    groups: tuple[Group, ...] | None = None
    """The sequences of a pack, in its order by length; None: a padded batch."""
    order: ClientOrder | None = None
    """Of a pack whose tokens lie client by client; None: they lie by length."""
    given: Tensor | None = None
    """A last hidden state to take in place of running the layers."""
    hidden: Tensor | None = None
    """The last hidden state of a pack, once its layers have run."""


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
