# SPDX-License-Identifier: Apache-2.0
"""The in-process transport: clients of a simulation, served in blocks."""

from collections.abc import Iterator, Sequence

from fedlora.core.rounds import Client, Failure, Memory, Order, Reply, Trainer
from fedlora.federation.client import serve
from fedlora.federation.memories import HeldMemories, Memories
from fedlora.federation.transport import decode_order, decode_reply, encode_order, encode_reply, with_traffic
from fedlora.methods.base import Method


class LocalTransport:
    """Serves orders in this process, in blocks of a fixed size.

    Args:
        clients: the roster.
        method: the same object that the server has.
        trainer: owns the clients' data.
        block: how many clients are served together. Part of the config: results never depend on the
            number of workers.
        through_bytes: encode and decode everything, as a network would. Without it values are handed
            over as they are; what is counted is the same.
        memories: what clients already hold.
    """

    def __init__(
        self,
        clients: Sequence[Client],
        method: Method,
        trainer: Trainer,
        *,
        block: int = 8,
        through_bytes: bool = True,
        memories: Memories | None = None,
    ) -> None:
        self.memories: Memories = memories if memories is not None else HeldMemories()
        self._clients = tuple(clients)
        self._method = method
        self._trainer = trainer
        self._block = block
        self._through_bytes = through_bytes

    def roster(self) -> Sequence[Client]:
        """Everybody who is there."""
        return self._clients

    def exchange(self, orders: Sequence[Order]) -> Iterator[Reply | Failure]:
        """Serve the orders block by block."""
        for first in range(0, len(orders), self._block):
            yield from self._serve(orders[first : first + self._block])

    def _serve(self, orders: Sequence[Order]) -> Iterator[Reply | Failure]:
        down = [encode_order(order) for order in orders]
        received = [decode_order(*pair) for pair in down] if self._through_bytes else orders
        memories = {order.client.id: self._memory(order) for order in received}
        held = {client: memory for client, memory in memories.items() if memory is not None}
        done = serve(received, held, self._method, self._trainer)
        for order, sent, served in zip(orders, down, done, strict=True):
            if served.memory is not None:
                self.memories.keep(order.client.id, served.memory)
            if isinstance(served.answer, Failure):
                yield with_traffic(served.answer, sent, (b"", b""))
            else:
                up = encode_reply(served.answer)
                answer = decode_reply(*up) if self._through_bytes else served.answer
                yield with_traffic(answer, sent, up)

    def _memory(self, order: Order) -> Memory | None:
        if order.kind == "train":
            return self.memories.before(order.client.id, order.round)
        return self.memories.latest(order.client.id)
