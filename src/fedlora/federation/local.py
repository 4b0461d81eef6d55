# SPDX-License-Identifier: Apache-2.0
"""The in-process transport: clients of a simulation, served in client batches."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

import torch

from fedlora.core.rounds import Client, ClientState, Failure, Order, Reply, Trainer
from fedlora.federation.client import Served, serve
from fedlora.federation.client_states import ClientStates, HeldClientStates
from fedlora.federation.pipeline import Pipeline
from fedlora.federation.transport import decode_order, encode_order, encode_reply, with_traffic
from fedlora.federation.validate import validate_encoded

_AHEAD = 4
"""Blocks under way or waiting to be taken, a worker: so many answers are held at most."""


class LocalTransport:
    """Serves orders in this process, in client batches of a fixed size.

    Args:
        clients: the roster.
        pipeline: the same method and stages that the server has.
        trainer: owns the clients' data.
        client batch: how many clients are served together. Part of the config: results never depend on the
            number of workers.
        workers: how many threads serve client batches, each with single-threaded operators, so that results do not
            depend on how many there are; None: the calling thread, as it is.
        through_bytes: encode and decode everything, as a network would. Without it values are handed
            over as they are; what is counted is the same.
        client states: what clients already hold.
    """

    def __init__(
        self,
        clients: Sequence[Client],
        pipeline: Pipeline,
        trainer: Trainer,
        *,
        client_batch: int = 8,
        workers: int | None = None,
        through_bytes: bool = True,
        client_states: ClientStates | None = None,
    ) -> None:
        self.client_states: ClientStates = client_states if client_states is not None else HeldClientStates()
        self._clients = tuple(clients)
        self._pipeline = pipeline
        self._trainer = trainer
        self._client_batch = client_batch
        self._workers = workers
        self._lock = Lock()
        self._through_bytes = through_bytes

    def roster(self) -> Sequence[Client]:
        """Everybody who is there."""
        return self._clients

    def exchange(self, orders: Sequence[Order]) -> Iterator[Reply | Failure]:
        """Serve the orders client batch by client batch, as many client batches at a time as there are workers."""
        client_batches = [
            orders[first : first + self._client_batch] for first in range(0, len(orders), self._client_batch)
        ]
        if self._workers is None:
            for client_batch in client_batches:
                yield from self._keep(self._serve(client_batch))
            return
        with ThreadPoolExecutor(self._workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            ahead: deque[Future[list[tuple[Served, Reply | Failure]]]] = deque()
            try:
                for client_batch in client_batches:
                    ahead.append(pool.submit(self._serve, client_batch))
                    if len(ahead) >= _AHEAD * self._workers:
                        yield from self._keep(ahead.popleft().result())
                while ahead:
                    yield from self._keep(ahead.popleft().result())
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _serve(self, orders: Sequence[Order]) -> list[tuple[Served, Reply | Failure]]:
        down = [encode_order(order) for order in orders]
        received = [decode_order(*pair) for pair in down] if self._through_bytes else orders
        client_states = {order.client.id: self._client_state(order) for order in received}
        held = {client: client_state for client, client_state in client_states.items() if client_state is not None}
        done = serve(received, held, self._pipeline, self._trainer)
        return [(own, self._answer(own, order, sent)) for own, order, sent in zip(done, orders, down, strict=True)]

    def _answer(self, served: Served, order: Order, sent: tuple[bytes, bytes]) -> Reply | Failure:
        if isinstance(served.answer, Failure):
            return with_traffic(served.answer, sent, (b"", b""))
        up = encode_reply(served.answer)
        return with_traffic(validate_encoded(order, *up) if self._through_bytes else served.answer, sent, up)

    def _keep(self, done: Sequence[tuple[Served, Reply | Failure]]) -> Iterator[Reply | Failure]:
        for served, answer in done:
            if served.client_state is not None:
                with self._lock:
                    self.client_states.keep(answer.client, served.client_state)
            yield answer

    def _client_state(self, order: Order) -> ClientState | None:
        with self._lock:
            if order.kind == "train":
                return self.client_states.before(order.client.id, order.round)
            return self.client_states.latest(order.client.id)
