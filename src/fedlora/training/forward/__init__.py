# SPDX-License-Identifier: Apache-2.0
"""Ways from examples to logits: padded batches, the oracle, and packed sequences, the fast one."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from torch import Tensor

from fedlora.core.adapter import AdapterSpec, Start
from fedlora.core.rounds import FitJob
from fedlora.training.model import Base
from fedlora.training.split import Indices
from fedlora.training.tokens import Tokens


class Forward(Protocol):
    """How a resident base makes logits of examples. It knows neither labels nor losses."""

    @property
    def base(self) -> Base:
        """The resident model."""
        ...

    @property
    def spec(self) -> AdapterSpec:
        """The adapter."""
        ...

    @property
    def device(self) -> str:
        """Where the base is."""
        ...

    def passes(self, jobs: Sequence[FitJob], load: Callable[[FitJob], float], dropout: float) -> Iterator[list[FitJob]]:
        """The jobs in order, cut into those that share their passes.

        Args:
            jobs: of one call.
            load: how many tokens a batch of a job has, about.
            dropout: probability on the adapters' inputs.
        """
        ...

    def logits(
        self, tokens: Tokens, starts: Sequence[Start], batches: Sequence[Indices], dropout: float = 0.0
    ) -> Iterator[tuple[int, Tensor]]:
        """One pass over a batch of each of several models.

        Args:
            tokens: of all examples.
            starts: the models, on the base's device; their tensors may need gradients.
            batches: a batch for each; empty ones are passed over.
            dropout: probability on the adapters' inputs.

        Yields:
            The number of each model with examples, and its logits in the order of its batch, in float32 or better.
        """
        ...

    def pieces(self, tokens: Tokens, examples: Indices) -> Iterator[Indices]:
        """Examples in order, cut into what one pass without gradients can take."""
        ...

    def prepare(self, tokens: Tokens) -> None:
        """Do now what would be done once, when examples of these are first asked for, and takes a while."""
        ...
