# SPDX-License-Identifier: Apache-2.0
"""Messages in Flower's records, and Flower's Grid as a connection.

A message is an array of bytes, which Flower sends in pieces and does not look into.
"""

import time
from collections.abc import Sequence

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedlora.core.text import is_plain
from fedlora.deploy.connection import GRACE, Arrival
from fedlora.federation.wire import MOST_REASON

_PLACE, _REASON = "p", "why"
_TYPE = "fedlora.payload"
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


def to_record(data: bytes) -> RecordDict:
    """Bytes as a message's content."""
    return RecordDict({_PLACE: ArrayRecord({_PLACE: Array("uint8", (len(data),), _TYPE, data)})})


def no_record(reason: str) -> RecordDict:
    """In place of bytes, why there are none."""
    return RecordDict({_REASON: ConfigRecord({_REASON: reason})})


def from_record(content: RecordDict) -> tuple[bytes | None, str]:
    """The bytes of a message, or None and why there are none."""
    if _PLACE in content.array_records:
        array = content.array_records[_PLACE].get(_PLACE)
        if array is not None and array.stype == _TYPE:
            return array.data, ""
    if _REASON in content.config_records:
        reason = content.config_records[_REASON].get(_REASON)
        plain = isinstance(reason, str) and is_plain(reason, MOST_REASON)
        return None, str(reason) if plain else "refused: a reason that is no plain text"
    return None, "refused: no message in the message"


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
            self._nodes = (time.monotonic(), tuple(sorted(str(node) for node in self._grid.get_node_ids())))
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
        self._waiting = {waiting: given for waiting, given in self._waiting.items() if given[1] > now}
        if reply.has_error():
            return Arrival(node, ticket, reason=_ERRORS.get(reply.error.code, f"error {reply.error.code} of Flower"))
        return Arrival(node, ticket, *from_record(reply.content))
