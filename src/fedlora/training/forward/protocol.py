# SPDX-License-Identifier: Apache-2.0
"""Ways from examples to a model's outputs: padded batches, the oracle, and packed sequences, the fast one."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from fedlora.core.adapter import AdapterSpec, Start
from fedlora.core.rounds import FitJob
from fedlora.training.bases.model import Base
from fedlora.training.data.split import Indices
from fedlora.training.encoding.tokens import Tokens
from fedlora.training.forward.outputs import Outputs


class Forward(Protocol):
    """How a resident base makes outputs of examples. It knows neither labels nor losses."""

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

    def outputs(
        self, tokens: Tokens, starts: Sequence[Start], batches: Sequence[Indices], dropout: float = 0.0
    ) -> Iterator[tuple[int, Outputs]]:
        """One pass over a batch of each of several models.

        Args:
            tokens: of all examples.
            starts: the models, on the base's device; their tensors may need gradients.
            batches: a batch for each; empty ones are passed over.
            dropout: probability on the adapters' inputs.

        Yields:
            The number of each model with examples, and what it gives at the places that are read, in the order of its
            batch: of a classifier one place an example, of a language model every place before a supervised token.
        """
        ...

    def pieces(self, tokens: Tokens, examples: Indices) -> Iterator[Indices]:
        """Examples in order, cut into what one pass without gradients can take."""
        ...

    def prepare(self, tokens: Tokens) -> None:
        """Do now what would be done once, when examples of these are first asked for, and takes a while."""
        ...
