# SPDX-License-Identifier: Apache-2.0
"""Which nodes have been said hello to, and which are to be asked again."""

from collections.abc import Callable, Mapping

from fedlora.deploy.connection import Arrival, Connection

_LOST, _REFUSED = 1.0, 10.0
"""Seconds after which a node is asked again: one from which nothing came, and one whose site was refused."""


class Greetings:
    """The hellos of one server process. A site that was refused may be mended and come back, so it is asked again.

    Args:
        connection: carries them.
        clock: seconds.
    """

    def __init__(self, connection: Connection, clock: Callable[[], float]) -> None:
        self._connection, self._clock = connection, clock
        self._tickets: dict[str, str] = {}
        """Node -> ticket of the hello that is under way to it, or was answered."""
        self._pauses: dict[str, float] = {}
        """Node -> when it is asked again."""
        self._refused: dict[str, str] = {}
        """Node -> why its site was refused."""

    @property
    def refused(self) -> Mapping[str, str]:
        """By node that is connected, a sentence about why its site was refused."""
        there = self._connection.nodes()
        return {node: self._refused[node] for node in there if node in self._refused}

    def send(self, hello: bytes, patience: float) -> None:
        """Say hello to nodes that are new, and again to those whose time has come."""
        there, now = self._connection.nodes(), self._clock()
        self._tickets = {node: ticket for node, ticket in self._tickets.items() if node in there}
        for node in there:
            if node not in self._tickets and self._pauses.get(node, now) <= now:
                self._tickets[node] = self._connection.send(node, hello, patience)

    def are_answered_by(self, arrival: Arrival) -> bool:
        """Whether this answers a hello."""
        return self._tickets.get(arrival.node) == arrival.ticket

    def lost(self, node: str) -> None:
        """Nothing came of a hello: again, after a pause."""
        self._again(node, _LOST)

    def refuse(self, node: str, why: str) -> bool:
        """What came cannot take part: again, after a longer pause. Returns whether this is news."""
        news = self._refused.get(node) != why
        self._refused[node] = why
        self._again(node, _REFUSED)
        return news

    def accept(self, node: str) -> None:
        """The site takes part."""
        self._refused.pop(node, None)

    def _again(self, node: str, pause: float) -> None:
        del self._tickets[node]
        self._pauses[node] = self._clock() + pause
