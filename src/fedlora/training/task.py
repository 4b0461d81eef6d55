# SPDX-License-Identifier: Apache-2.0
"""What differs between tasks: how texts are encoded, what is to be predicted, the loss, and the metrics."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from fedlora.core.metrics import Scoring, Sums
from fedlora.training.data import Texts
from fedlora.training.split import Indices, Owned
from fedlora.training.tokens import Tokens


class Task(Protocol):
    """Everything of training and scoring that depends on what the model is for.

    Whoever trains knows examples, tensors and additive sums, and asks the task for the rest.
    """

    @property
    def name(self) -> str:
        """As records call it."""
        ...

    @property
    def scoring(self) -> Scoring:
        """The metrics, the headline first, and what a client's score may hold."""
        ...

    @property
    def labels(self) -> Sequence[str]:
        """The names of what is predicted, in the order of the logits; empty where there are none."""
        ...

    @property
    def chance(self) -> float | None:
        """The headline metric of a model that guesses; None where guessing has no meaning."""
        ...

    def encode(self, texts: Texts, tokenizer: Any, fingerprint: str, max_length: int) -> Tokens:
        """The examples as token ids, cut at `max_length`; `fingerprint` is the tokenizer's."""
        ...

    def targets(self, tokens: Tokens, examples: Indices, client: Owned | None, device: str) -> Tensor:
        """What the model should predict for some examples.

        Args:
            tokens: of all examples.
            examples: which of them, in order.
            client: whose model it is: a client may number its labels in its own order. None: the server's.
            device: where to put them.
        """
        ...

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss, a scalar: the sum over the examples."""
        ...

    def sums(self, logits: Tensor, targets: Tensor, client: Owned | None) -> Sums:
        """The sums from which the metrics come. A client's hold only what `scoring.sums` names."""
        ...
