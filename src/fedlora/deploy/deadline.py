# SPDX-License-Identifier: Apache-2.0
"""How long the server waits for answers."""

import statistics
from collections import deque
from collections.abc import Sequence

LONGEST = 3600.0
"""Seconds for which an answer is waited for where the config says nothing: no site can hold a round up for longer."""
_SHORTEST, _TIMES, _PAST = 30.0, 5.0, 5
"""At least; so many times the median answer; of so many exchanges."""


class Deadline:
    """The limit of an exchange, which follows from the answers before.

    Half of the sites would have to be slow to move the median, so that one that is, or wants to be, cannot move the
    limit further and further.

    Args:
        fixed: seconds that hold for every exchange; None: as the answers say.
    """

    def __init__(self, fixed: float | None) -> None:
        self._fixed = fixed
        self._past: dict[str, deque[list[float]]] = {}

    def limit(self, kind: str) -> float:
        """Seconds for an exchange of a kind of orders."""
        if self._fixed is not None:
            return self._fixed
        answers = [seconds for exchange in self._past.get(kind, ()) for seconds in exchange]
        if not answers:
            return LONGEST
        return min(LONGEST, max(_SHORTEST, round(_TIMES * statistics.median(answers))))

    def learn(self, kind: str, answers: Sequence[float]) -> None:
        """What the answers of an exchange took, in seconds."""
        if answers:
            self._past.setdefault(kind, deque(maxlen=_PAST)).append(list(answers))
