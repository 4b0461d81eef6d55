# SPDX-License-Identifier: Apache-2.0
"""What a model gives at the places that its task reads, before its head."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """The last hidden states of one model at the places that are read, and the head that makes logits of them.

    A task that needs all logits at once asks for `logits`; one whose logits would not fit into memory, a language
    model's over its vocabulary, calls the head on some states at a time.
    """

    hidden: Tensor
    """(places, width); where the logits were made with others', these (places, classes)."""
    head: Callable[[Tensor], Tensor]
    """From hidden states (n, width) to logits (n, classes) in float32 or better."""
    classes: int
    """How many logits a place has: labels, or the vocabulary."""
    trains: bool = False
    """Whether parameters of the head get a gradient."""

    def logits(self) -> Tensor:
        """The logits of all places, (places, classes)."""
        return self.head(self.hidden)


def made(logits: Tensor) -> Outputs:
    """Outputs whose logits are there already."""
    return Outputs(logits, _itself, logits.shape[1])


def _itself(logits: Tensor) -> Tensor:
    return logits
