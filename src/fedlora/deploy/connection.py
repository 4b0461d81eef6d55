# SPDX-License-Identifier: Apache-2.0
"""What carries messages between the server and nodes: the protocol of a connection."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

GRACE = 60.0
"""Seconds beyond its patience for which an answer can still arrive, so that a late one is seen and told."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """What came from a node: a message, or why there will be none."""

    node: str
    ticket: str
    """Of what was sent, `Connection.send`."""
    data: bytes | None = None
    reason: str = ""


class Connection(Protocol):
    """Carries bytes to nodes and back. It knows nothing of what is in them."""

    def nodes(self) -> Sequence[str]:
        """Who can be sent something now."""
        ...

    def send(self, node: str, data: bytes, patience: float) -> str:
        """Send; returns a ticket. The answer, or why there is none, arrives some time, or never.

        Args:
            node: to whom.
            data: a message.
            patience: seconds after which no answer is of use.
        """
        ...

    def collect(self, wait: float) -> Sequence[Arrival]:
        """What has arrived; waits up to so many seconds for something."""
        ...
