# SPDX-License-Identifier: Apache-2.0
"""The server's set as the clients' parts and a rest, and what the clients' scores say of them: no part twice.

Where clients hold the global model, their scores together are the global one but for the labels that the server
counts. Which models are the same is told by their numbers, by no name of a method: a client may hold another rank,
another head, or numbers that a narrow wire has rounded.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy

from fedlora.core.adapter import Start
from fedlora.core.metrics import Score
from fedlora.core.rounds import ScorePart, TestPart
from fedlora.training.data.split import Indices, Owned
from fedlora.training.encoding.tokens import Tokens


@dataclass(frozen=True, slots=True, eq=False)
class ScoredPart:
    """A model, and examples on which it is scored."""

    client: str | None
    """Whose examples these are; None: nobody's."""
    part: ScorePart
    """Which of the client's."""
    tokens: Tokens
    """Those among which they are."""
    examples: Indices
    """Which of them."""
    start: Start
    """The model, on the base's device."""
    model: bytes
    """Its digest."""
    globally: bool = False
    """Whether this is a part of the global model's score."""


class ScoredParts:
    """What the server would count on the part that a client's model was scored on last. Several threads may use it.

    It holds no model and no logits: of each client a digest of 32 bytes and the sums of its score, of which there are
    at most three an example and a few more.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, ScorePart], tuple[bytes, Score]] = {}

    def keep(self, client: str, part: ScorePart, model: bytes, score: Score) -> None:
        """Take down a score in place of the one before it.

        Args:
            client: whose examples these are.
            part: which of them.
            model: its digest.
            score: with what the server counts, by its labels.
        """
        self._known[client, part] = (model, score)

    def find(self, client: str | None, part: ScorePart, model: bytes) -> Score | None:
        """The score of a client's part, if it was this very model's; None otherwise, and for the rest (client None)."""
        known = self._known.get((client, part)) if client is not None else None
        return known[1] if known is not None and known[0] == model else None

    def forget(self) -> None:
        """Drop everything."""
        self._known.clear()


def server_parts(owned: Mapping[str, Owned], part: TestPart, test: int) -> Iterator[tuple[str | None, Indices]]:
    """The server's set of a part: each client's, and for the test part (under None) what no client has.

    Every example comes once: a part that shares examples with an earlier one is left to the rest.

    Args:
        owned: client -> its examples.
        part: test or validation.
        test: examples of the test set.
    """
    if part == "validation":
        yield from ((client, parts.validation) for client, parts in owned.items() if len(parts.validation))
        return
    left = numpy.ones(test, dtype=bool)
    for client, parts in owned.items():
        if len(parts.test) and left[parts.test].all():
            left[parts.test] = False
            yield client, parts.test
    if left.any():
        yield None, numpy.flatnonzero(left)
