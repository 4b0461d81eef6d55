# SPDX-License-Identifier: Apache-2.0
"""The oracle: one model after the other, on padded batches. Clear before quick."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from fedlora.core.adapter import AdapterSpec, Start
from fedlora.core.rounds import FitJob
from fedlora.training.bases.model import Base
from fedlora.training.batches import before_supervised, padded
from fedlora.training.data.split import Indices
from fedlora.training.encoding.tokens import Tokens
from fedlora.training.forward.outputs import Outputs, made

_SCORED_AT_A_TIME = 64
"""Examples of a pass that scores."""


@dataclass(frozen=True, eq=False)
class PaddedForward:
    """Padded batches; every job has its passes to itself."""

    base: Base
    spec: AdapterSpec
    device: str = "cpu"

    def passes(self, jobs: Sequence[FitJob], load: Callable[[FitJob], float], dropout: float) -> Iterator[list[FitJob]]:
        """One job after the other."""
        return ([job] for job in jobs)

    def outputs(
        self, tokens: Tokens, starts: Sequence[Start], batches: Sequence[Indices], dropout: float = 0.0
    ) -> Iterator[tuple[int, Outputs]]:
        """The outputs of each model, a pass for each; their logits are there already."""
        for number, (start, batch) in enumerate(zip(starts, batches, strict=True)):
            if len(batch):
                ids, mask = padded(tokens, batch, self.base.padding, self.device)
                logits = self.base.logits(ids, mask, start, self.spec, dropout)
                yield number, made(logits if tokens.supervised is None else before_supervised(logits, tokens, batch))

    def pieces(self, tokens: Tokens, examples: Indices) -> Iterator[Indices]:
        """So many examples at a time."""
        for first in range(0, len(examples), _SCORED_AT_A_TIME):
            yield examples[first : first + _SCORED_AT_A_TIME]

    def prepare(self, tokens: Tokens) -> None:
        """Nothing: every pass computes everything."""
