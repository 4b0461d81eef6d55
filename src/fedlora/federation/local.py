# SPDX-License-Identifier: Apache-2.0
"""The in-process transport: clients of a simulation, served in blocks."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

import torch

from fedlora.core.rounds import Client, Failure, Memory, Order, Reply, Trainer
from fedlora.federation.client import Served, serve
from fedlora.federation.door import open_reply
from fedlora.federation.memories import HeldMemories, Memories
from fedlora.federation.transport import decode_order, encode_order, encode_reply, with_traffic
from fedlora.methods.base import Method

_AHEAD = 4
"""Blocks under way or waiting to be taken, a worker: so many answers are held at most."""


class LocalTransport:
    """Serves orders in this process, in blocks of a fixed size.

    Args:
        clients: the roster.
        method: the same object that the server has.
        trainer: owns the clients' data.
        block: how many clients are served together. Part of the config: results never depend on the
            number of workers.
        workers: how many threads serve blocks, each with single-threaded operators, so that results do not
            depend on how many there are; None: the calling thread, as it is.
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
        workers: int | None = None,
        through_bytes: bool = True,
        memories: Memories | None = None,
    ) -> None:
        self.memories: Memories = memories if memories is not None else HeldMemories()
        self._clients = tuple(clients)
        self._method = method
        self._trainer = trainer
        self._block = block
        self._workers = workers
        self._lock = Lock()
        self._through_bytes = through_bytes

    def roster(self) -> Sequence[Client]:
        """Everybody who is there."""
        return self._clients

    def exchange(self, orders: Sequence[Order]) -> Iterator[Reply | Failure]:
        """Serve the orders block by block, as many blocks at a time as there are workers."""
        blocks = [orders[first : first + self._block] for first in range(0, len(orders), self._block)]
        if self._workers is None:
            for block in blocks:
                yield from self._keep(self._serve(block))
            return
        with ThreadPoolExecutor(self._workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            ahead: deque[Future[list[tuple[Served, Reply | Failure]]]] = deque()
            try:
                for block in blocks:
                    ahead.append(pool.submit(self._serve, block))
                    if len(ahead) >= _AHEAD * self._workers:
                        yield from self._keep(ahead.popleft().result())
                while ahead:
                    yield from self._keep(ahead.popleft().result())
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _serve(self, orders: Sequence[Order]) -> list[tuple[Served, Reply | Failure]]:
        down = [encode_order(order) for order in orders]
        received = [decode_order(*pair) for pair in down] if self._through_bytes else orders
        memories = {order.client.id: self._memory(order) for order in received}
        held = {client: memory for client, memory in memories.items() if memory is not None}
        done = serve(received, held, self._method, self._trainer)
        return [(own, self._answer(own, order, sent)) for own, order, sent in zip(done, orders, down, strict=True)]

    def _answer(self, served: Served, order: Order, sent: tuple[bytes, bytes]) -> Reply | Failure:
        if isinstance(served.answer, Failure):
            return with_traffic(served.answer, sent, (b"", b""))
        up = encode_reply(served.answer)
        return with_traffic(open_reply(order, *up) if self._through_bytes else served.answer, sent, up)

    def _keep(self, done: Sequence[tuple[Served, Reply | Failure]]) -> Iterator[Reply | Failure]:
        for served, answer in done:
            if served.memory is not None:
                with self._lock:
                    self.memories.keep(answer.client, served.memory)
            yield answer

    def _memory(self, order: Order) -> Memory | None:
        with self._lock:
            if order.kind == "train":
                return self.memories.before(order.client.id, order.round)
            return self.memories.latest(order.client.id)
