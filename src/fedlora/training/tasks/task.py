# SPDX-License-Identifier: Apache-2.0
"""What differs between tasks: what is to be predicted, the loss, and the metrics."""

from typing import Protocol

from torch import Tensor

from fedlora.core.metrics import Scoring, Sums
from fedlora.training.data.split import Indices, Owned
from fedlora.training.encoding.tokens import Tokens
from fedlora.training.forward.outputs import Outputs


class Task(Protocol):
    """Everything of training and scoring that depends on what the model is for.

    Whoever trains knows examples, outputs and additive sums, and asks the task for the rest.
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

    def loss(self, outputs: Outputs, tokens: Tokens, examples: Indices, client: Owned | None) -> Tensor:
        """The loss, a scalar: the sum over all that is predicted, which `predictions` counts.

        Args:
            outputs: of the examples, in order.
            tokens: of all examples.
            examples: which of them.
            client: whose model it is: a client may number its labels in its own order. None: the server's.
        """
        ...

    def predictions(self, tokens: Tokens, examples: Indices) -> int:
        """How many losses the loss of some examples is the sum of; training goes by their mean."""
        ...

    def names(self, client: Owned | None) -> list[str]:
        """What the logits stand for, in their order, in a client's model or (None) in the global one; empty where the
        tokenizer says it."""
        ...

    def sums(self, outputs: Outputs, tokens: Tokens, examples: Indices, client: Owned | None) -> Sums:
        """The sums from which the metrics come, arguments as of `loss`. A client's hold only what `scoring.sums`
        names."""
        ...
