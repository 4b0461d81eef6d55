# SPDX-License-Identifier: Apache-2.0
"""The transport of a simulation: its clients are served on this machine, a batch at a time, by an executor."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from fedlora.core.rounds import Client, ClientState, Failure, Order, Reply, Traffic, Trainer
from fedlora.core.text import is_plain
from fedlora.errors import DataError, PayloadError
from fedlora.federation.client import Served, serve
from fedlora.federation.client_states import ClientStates, HeldClientStates
from fedlora.federation.executor import Done, Executor, Inline, Job, Worker
from fedlora.federation.frame import Encoded
from fedlora.federation.isolate import failure_of
from fedlora.federation.pipeline import Pipeline
from fedlora.federation.validate import received
from fedlora.federation.wire import OrderMessage, decode_request, encode, encode_reply

_LONGEST_ID = 500


@dataclass(frozen=True, slots=True, eq=False)
class ThroughBytes:
    """A worker: everything is encoded and decoded, as a network would."""

    pipeline: Pipeline
    trainer: Trainer

    def __call__(self, job: Job) -> list[Done]:
        """Serve the job's orders."""
        sent = [encode(OrderMessage(order)) for order in job.orders]
        arrived = [_delivered(message) for message in sent]
        served = serve(arrived, job.client_states, self.pipeline, self.trainer)
        return [_done(*each, _returned) for each in zip(served, job.orders, sent, strict=True)]


@dataclass(frozen=True, slots=True, eq=False)
class ByValue:
    """A worker: values are handed over as they are; what is counted is the same."""

    pipeline: Pipeline
    trainer: Trainer

    def __call__(self, job: Job) -> list[Done]:
        """Serve the job's orders."""
        sent = [encode(OrderMessage(order)) for order in job.orders]
        served = serve(job.orders, job.client_states, self.pipeline, self.trainer)
        return [_done(*each, _as_it_is) for each in zip(served, job.orders, sent, strict=True)]


def _delivered(message: Encoded) -> Order:
    request = decode_request(message.data)
    if not isinstance(request, OrderMessage):
        raise PayloadError("a simulation sends orders alone")
    return request.order


Returned = Callable[[Reply, Encoded, Order], Reply | Failure]
"""What of a reply, and of its bytes, arrives."""


def _returned(reply: Reply, message: Encoded, order: Order) -> Reply | Failure:
    return received(order, message.data)


def _as_it_is(reply: Reply, message: Encoded, order: Order) -> Reply | Failure:
    return reply


def _done(served: Served, order: Order, sent: Encoded, returned: Returned) -> Done:
    """What came of an order, with its traffic; a reply that cannot be sent is a failure of its client."""
    answer, state = served.answer, served.client_state
    traffic = Traffic(down=sent.payload, overhead=sent.overhead)
    if isinstance(answer, Reply):
        try:
            message = encode_reply(answer)
        except (TypeError, ValueError, PayloadError) as error:
            return Done(replace(failure_of(answer.client, answer.round, error), traffic=traffic))
        traffic = Traffic(sent.payload, message.payload, sent.overhead + message.overhead)
        answer = returned(answer, message, order)
    return Done(replace(answer, traffic=traffic), state)


class LocalTransport:
    """Serves orders on this machine, in batches of clients of a fixed size.

    Args:
        clients: the roster.
        pipeline: the same method and stages that the server has.
        trainer: owns the clients' data.
        client_batch: how many clients are served together. Part of the config: results never depend on the executor.
        executor: where batches are served: makes an executor of a worker.
        through_bytes: encode and decode everything, as a network would. Without it values are handed over as they
            are; what is counted is the same.
        client_states: what clients already hold.

    Raises:
        DataError: a client's name cannot be written to a record as it is.
    """

    def __init__(
        self,
        clients: Sequence[Client],
        pipeline: Pipeline,
        trainer: Trainer,
        *,
        client_batch: int = 8,
        executor: Callable[[Worker], Executor] = Inline,
        through_bytes: bool = True,
        client_states: ClientStates | None = None,
    ) -> None:
        for client in clients:
            if not is_plain(client.id, _LONGEST_ID):
                raise DataError(
                    f"A client is called {client.id[:_LONGEST_ID]!r}, expected one line without control characters: "
                    f"change the names in the column of split.column."
                )
        self.client_states: ClientStates = client_states if client_states is not None else HeldClientStates()
        self._clients = tuple(clients)
        self._client_batch = client_batch
        self._executor = executor((ThroughBytes if through_bytes else ByValue)(pipeline, trainer))

    def roster(self) -> Sequence[Client]:
        """All clients."""
        return self._clients

    def exchange(self, orders: Sequence[Order]) -> Iterator[Reply | Failure]:
        """Serve the orders batch by batch, and keep what their clients keep."""
        size = self._client_batch
        batches = (orders[first : first + size] for first in range(0, len(orders), size))
        for results in self._executor.run(self._job(batch) for batch in batches):
            for done in results:
                if done.client_state is not None:
                    self.client_states.keep(done.answer.client, done.client_state)
                yield done.answer

    def _job(self, orders: Sequence[Order]) -> Job:
        states = {order.client.id: self._client_state(order) for order in orders}
        return Job(orders, {client: state for client, state in states.items() if state is not None})

    def _client_state(self, order: Order) -> ClientState | None:
        if order.kind == "train":
            return self.client_states.before(order.client.id, order.round)
        return self.client_states.latest(order.client.id)
