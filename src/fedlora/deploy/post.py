# SPDX-License-Identifier: Apache-2.0
"""Post offices: what carries letters. One goes straight into the sockets of sites on this machine, one is Flower."""

import queue
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from fedlora.deploy.sockets import PeerError, ask


@dataclass(frozen=True, slots=True)
class Arrival:
    """What came from a node: a letter, or why there will be none."""

    node: str
    data: bytes | None = None
    reason: str = ""


class PostOffice(Protocol):
    """Carries bytes to nodes and back. It knows nothing of what is in them."""

    def nodes(self) -> Sequence[str]:
        """Who can be sent something now."""
        ...

    def send(self, node: str, data: bytes, patience: float) -> None:
        """Send; the answer, or why there is none, arrives some time, within `patience` seconds or never."""
        ...

    def collect(self, wait: float) -> Sequence[Arrival]:
        """What has arrived; waits up to so many seconds for something."""
        ...


class DirectPost:
    """Sites on this machine.

    Args:
        sites: address -> key.
    """

    def __init__(self, sites: Mapping[str, bytes]) -> None:
        self._sites = dict(sites)
        self._arrived: queue.Queue[Arrival] = queue.Queue()

    def nodes(self) -> Sequence[str]:
        """Every address, whether somebody listens there or not."""
        return list(self._sites)

    def send(self, node: str, data: bytes, patience: float) -> None:
        """Ask in a thread of its own."""
        threading.Thread(target=self._ask, args=(node, data, patience), daemon=True).start()

    def collect(self, wait: float) -> Sequence[Arrival]:
        """What has arrived; waits up to so many seconds for something."""
        arrived = []
        with suppress(queue.Empty):
            arrived.append(self._arrived.get(timeout=wait))
            while True:
                arrived.append(self._arrived.get_nowait())
        return arrived

    def _ask(self, node: str, data: bytes, patience: float) -> None:
        try:
            self._arrived.put(Arrival(node, ask(node, self._sites[node], data, patience)))
        except PeerError as error:
            self._arrived.put(Arrival(node, reason=str(error)))
