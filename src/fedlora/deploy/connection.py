# SPDX-License-Identifier: Apache-2.0
"""connections: what carries messages. One goes straight into the sockets of sites on this machine, one is Flower."""

import itertools
import queue
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from fedlora.deploy.sockets import PeerError, ask

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


class DirectConnection:
    """Sites on this machine.

    Args:
        sites: address -> key.
    """

    def __init__(self, sites: Mapping[str, bytes]) -> None:
        self._sites = dict(sites)
        self._tickets = itertools.count()
        self._arrived: queue.Queue[Arrival] = queue.Queue()

    def nodes(self) -> Sequence[str]:
        """Every address, whether somebody listens there or not."""
        return list(self._sites)

    def send(self, node: str, data: bytes, patience: float) -> str:
        """Ask in a thread of its own."""
        ticket = str(next(self._tickets))
        threading.Thread(target=self._ask, args=(node, ticket, data, patience + GRACE), daemon=True).start()
        return ticket

    def collect(self, wait: float) -> Sequence[Arrival]:
        """What has arrived; waits up to so many seconds for something."""
        arrived = []
        with suppress(queue.Empty):
            arrived.append(self._arrived.get(timeout=wait))
            while True:
                arrived.append(self._arrived.get_nowait())
        return arrived

    def _ask(self, node: str, ticket: str, data: bytes, patience: float) -> None:
        try:
            self._arrived.put(Arrival(node, ticket, ask(node, self._sites[node], data, patience)))
        except PeerError as error:
            self._arrived.put(Arrival(node, ticket, reason=str(error)))
