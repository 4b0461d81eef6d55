"""A connection straight into the sockets of sites on this machine, for tests."""

import itertools
import queue
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress

from fedlora.deploy.connection import GRACE, Arrival
from fedlora.deploy.sockets import PeerError, ask


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
