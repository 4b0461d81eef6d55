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
    def chance(self) -> float | None:
        """The headline metric of a model that guesses; None where guessing has no meaning."""
        ...

    def encode(self, texts: Texts, tokenizer: Any, fingerprint: str | None, max_length: int) -> Tokens:
        """The examples as token ids, cut at `max_length`.

        Args:
            texts: of the examples.
            tokenizer: of the base.
            fingerprint: the tokenizer's, by which they are kept on disk for the next run; None: in memory alone.
            max_length: tokens after which a text is cut.
        """
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

    def names(self, client: Owned | None) -> list[str]:
        """What the logits stand for, in their order, in a client's model or (None) in the global one."""
        ...

    def answers(self, logits: Tensor, names: Sequence[str]) -> list[list[tuple[str, float]]]:
        """For each example the possible answers with their probabilities, the likeliest first."""
        ...

    def sums(self, logits: Tensor, targets: Tensor, client: Owned | None) -> Sums:
        """The sums from which the metrics come. A client's hold only what `scoring.sums` names."""
        ...
