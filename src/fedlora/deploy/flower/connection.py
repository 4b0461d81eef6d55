# SPDX-License-Identifier: Apache-2.0
"""Flower's Grid as a connection."""

import time
from collections.abc import Sequence

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from fedlora.deploy.connection import GRACE, Arrival
from fedlora.deploy.flower.records import from_record, to_record

_STEP = 0.3
"""Seconds between two looks for replies."""
_AGE = 2.0
"""Seconds for which the list of nodes is good."""
_ERRORS = {
    1: "the node could not load the app",
    2: "the app broke down",
    3: "the message's time is over",
    4: "the reply's time is over",
    5: "the node is gone",
    7: "the node does not trust the app: no key of its --trusted-entities has signed it",
    8: "the app was killed",
}


class GridConnection:
    """SuperNodes behind a SuperLink.

    Replies are pulled as they come: `Grid.send_and_receive` would wait for the slowest, and sleep in between.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._waiting: dict[str, tuple[str, float]] = {}
        """Message id -> node, and when it is given up."""
        self._nodes: tuple[float, tuple[str, ...]] = (0.0, ())

    def nodes(self) -> Sequence[str]:
        """Who is connected to the SuperLink."""
        if time.monotonic() - self._nodes[0] > _AGE:
            self._nodes = (time.monotonic(), tuple(sorted(str(own) for own in self._grid.get_node_ids())))
        return self._nodes[1]

    def send(self, node: str, data: bytes, patience: float) -> str:
        """Push one message."""
        life = patience + GRACE
        message = Message(to_record(data), dst_node_id=int(node), message_type=MessageType.QUERY, ttl=life)
        ticket = next(iter(self._grid.push_messages([message])), None) or ""
        if ticket:
            self._waiting[ticket] = (node, time.monotonic() + life)
        return ticket

    def collect(self, wait: float) -> Sequence[Arrival]:
        """What has arrived; waits up to so many seconds for something."""
        until = time.monotonic() + wait
        while True:
            arrived = [self._arrival(reply) for reply in self._grid.pull_messages(list(self._waiting))]
            if arrived or time.monotonic() >= until:
                return arrived
            time.sleep(min(_STEP, max(0.0, until - time.monotonic())))

    def _arrival(self, reply: Message) -> Arrival:
        ticket = reply.metadata.reply_to_message_id
        node, _ = self._waiting.pop(ticket, (str(reply.metadata.src_node_id), 0.0))
        now = time.monotonic()
        self._waiting = {own: given for own, given in self._waiting.items() if given[1] > now}
        if reply.has_error():
            return Arrival(node, ticket, reason=_ERRORS.get(reply.error.code, f"error {reply.error.code} of Flower"))
        return Arrival(node, ticket, *from_record(reply.content))
