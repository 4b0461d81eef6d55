# SPDX-License-Identifier: Apache-2.0
"""The one thing that hooks inside a resident model know of the pass under way in their thread."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

Addition = Callable[[Tensor], Tensor]
"""What a map's output gets, (..., d_out), given its input, (..., d_in)."""
Group = tuple[int, int, int]
"""Sequences of one length in a pack: (first token, sequences, tokens of each)."""

Read = Literal["first", "last"]
"""Which token of a sequence a classifier's head reads: encoders the first, decoders the last."""
Reads = Read | Literal["predicting"]
"""What a head reads; predicting: a language model's, every token before one that is to be predicted."""


class KeysTaken(Exception):  # noqa: N818 (no error: it ends a call that has done its work)
    """The last layer has come to its attention, and its keys and values are taken."""


class PassEnded(Exception):  # noqa: N818 (likewise)
    """The pass has come to the layer before which it ends."""


@dataclass(slots=True, eq=False)
class LastLayer:
    """A last layer that is computed for the read tokens alone.

    Keys and values of all tokens in a first call, which ends at the attention, then all the rest for those tokens.
    """

    side: Read
    """Which token of a sequence is read."""
    tokens: Tensor
    """Of each sequence, the place of that token in the pack."""
    placed: bool
    """Whether the output has them in their places among all tokens, the others zero."""
    idle: frozenset[nn.Module] = frozenset()
    """The maps whose output keys and values do not need."""
    under_way: bool = False
    """Whether the layer is being run."""
    keys: Tensor | None = None
    """Of all tokens (1, heads, tokens, width), once they are taken."""
    values: Tensor | None = None
    """Likewise."""


@dataclass(frozen=True, slots=True, eq=False)
class Narrowed:
    """Maps of a last layer on whose output no other token depends, and the tokens for which they are computed.

    The others get zeros there; what the layer makes of them nobody reads.
    """

    maps: frozenset[nn.Module]
    tokens: Tensor
    """Places in the pack."""


@dataclass(frozen=True, slots=True, eq=False)
class Below:
    """What the layers below one give, known beforehand."""

    layer: int
    """The first layer that is computed."""
    states: Tensor
    """Its input, of a pack's tokens (1, tokens, width)."""


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
    sequences_to_length: Tensor
    """Of each sequence in the order by length, its number in the pack."""
    sequences_from_length: Tensor
    """Of each sequence of the pack, its number in the order by length."""


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
    last: LastLayer | None = None
    """The last layer of a pack, where it is computed for the read tokens alone; None: for all."""
    below: Below | None = None
    """What takes the place of the layers below one, until that layer has taken it."""
    until: int | None = None
    """The layer before which the pass ends, with that layer's input as its hidden state."""
    narrowed: "Narrowed | None" = None
    """Maps of the last layer that are computed for the read tokens alone; None: for all."""
    checkpointing: bool = False
    """Whether a layer keeps its input alone and is computed again in the backward pass."""
    cast: tuple[Tensor, Tensor] | None = None
    """The last input of a map that was cast, and the same in another type: query, key and value read one input."""

    @property
    def rows(self) -> Tensor | None:
        """Which tokens of the pack the layer under way computes; None: all."""
        last = self.last
        return None if last is None or not last.under_way or last.keys is None else last.tokens

    def skips(self, module: nn.Module) -> bool:
        """Whether nobody asks for what a map would give now."""
        last = self.last
        return last is not None and last.under_way and last.keys is None and module in last.idle

    def tokens_of(self, module: nn.Module) -> Tensor | None:
        """For which tokens of the pack a map is computed; None: for all."""
        narrowed = self.narrowed
        return None if narrowed is None or module not in narrowed.maps else narrowed.tokens

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
