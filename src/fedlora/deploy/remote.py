# SPDX-License-Identifier: Apache-2.0
"""The server's end: a transport that sends messages through some connection and takes in what comes back.

Every order has a number, and a number is open until its answer came or its time is over. An answer to a number that
is not open (a duplicate, a late one, one to an old round) is dropped and noted; nothing is counted twice.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from fedlora.core.rounds import Client, Failure, FailureKind, Order, Reply, Traffic
from fedlora.deploy.config import difference, shared_digest
from fedlora.deploy.connection import Arrival, Connection
from fedlora.deploy.deadline import Deadline
from fedlora.deploy.greetings import Greetings
from fedlora.deploy.sites import Members
from fedlora.errors import FedloraError, PayloadError, UserError
from fedlora.federation.frame import Encoded
from fedlora.federation.settings import DeploySettings
from fedlora.federation.validate import validate_encoded
from fedlora.federation.wire import (
    Answer,
    FailureMessage,
    Finished,
    FinishMessage,
    Hello,
    Introduction,
    OrderMessage,
    Refusal,
    ReplyMessage,
    decode_answer,
    encode,
)
from fedlora.federation.wire_fields import Number

_POLL = 1.0
"""Seconds that a connection is asked to wait for something to come."""


@dataclass(slots=True, eq=False)
class _Open:
    """An order that is waited for."""

    order: Order
    node: str
    number: Number
    ticket: str
    sent: Encoded
    at: float


OrderAnswer = ReplyMessage | FailureMessage | Finished
"""What can answer an order."""
_CALLED: Mapping[type[Answer], str] = {
    ReplyMessage: "a reply",
    FailureMessage: "a failure",
    Finished: "a finish",
    Introduction: "an introduction",
    Refusal: "a refusal",
}


class AbsentError(UserError):
    """Too few sites are there."""


class RemoteTransport:
    """The transport of a deployed federation.

    Args:
        connection: carries the messages.
        shared: the server's shared part of the config.
        run: names the run at the sites.
        patience: whom to wait for, and how long.
        check_client: refuses a member that the method cannot take, by an error.
        members: those who are known from an earlier part of the run.
        session: of the server process that wrote last into the run, so that this one's orders are newer.
        clock: seconds.
        tell: is given a line about everything that is noted.
    """

    def __init__(
        self,
        connection: Connection,
        shared: Mapping[str, str],
        run: str,
        patience: DeploySettings,
        check_client: Callable[[Sequence[Client]], None],
        *,
        members: Members,
        session: int = 0,
        clock: Callable[[], float] = time.monotonic,
        tell: Callable[[str], object] = lambda line: None,
    ) -> None:
        self._clock = clock
        self._connection, self._shared, self._run = connection, shared, run
        self._digest = shared_digest(shared)
        self._patience, self._check_client = patience, check_client
        self.members = members
        self._greetings = Greetings(connection, clock)
        self._hello = encode(Hello(shared, run)).data
        self.session, self._count = max(time.time_ns() // 1000, session + 1), 0
        """Sites serve newer orders only, and a clock can be set back."""
        self._deadline = Deadline(patience.deadline)
        self._round = 0
        self._noted: list[dict[str, object]] = []
        self._tell = tell

    def gather(self) -> None:
        """Say hello until enough sites are there. One that is refused keeps no other from coming.

        Raises:
            AbsentError: they did not come in time, or none of those who came could be taken in.
        """
        until = self._clock() + self._patience.wait
        while (count := len(self.roster())) < self._patience.sites:
            left = until - self._clock()
            refused = self._greetings.refused
            nobody = len(refused) >= max(self._patience.sites, len(self._connection.nodes()))
            if left <= 0 or nobody:
                came = ", ".join(client.id for client in self.roster()) or "none"
                why = "".join(f" {sentence}" for sentence in refused.values())
                after = "All that are connected were refused:" if nobody else f"After {self._patience.wait:g} seconds"
                raise AbsentError(
                    f"{after} {count} of {self._patience.sites} sites are there ({came}).{why} Start the others, or "
                    f"change deploy.sites or deploy.wait."
                )
            self._greetings.send(self._hello, left)
            for arrival in self._connection.collect(min(left, _POLL)):
                self._take(arrival, {})

    def roster(self) -> Sequence[Client]:
        """Every client that has said hello."""
        return self.members.roster()

    def exchange(self, orders: Sequence[Order]) -> Iterator[Reply | Failure]:
        """Send the orders and yield what comes within the deadline."""
        self._round = orders[0].round if orders else self._round
        limit = self._deadline.limit(orders[0].kind if orders else "")
        self._greetings.send(self._hello, limit)

        def message(order: Order, number: Number) -> OrderMessage:
            return OrderMessage(order, number, self._run, self._digest)

        yield from self._answers(orders, message, limit)

    def finish(self, orders: Sequence[Order], summary: Mapping[str, object]) -> list[str]:
        """Have every site write its final model; returns those that have."""

        def message(order: Order, number: Number) -> FinishMessage:
            return FinishMessage(order, number, self._run, self._digest, summary)

        answers = self._answers(orders, message, self._deadline.limit("evaluate"))
        return [answer.client for answer in answers if isinstance(answer, Reply)]

    def notes(self) -> list[dict[str, object]]:
        """What was dropped, refused or lost since the last call."""
        noted, self._noted = self._noted, []
        return noted

    def _answers(
        self, orders: Sequence[Order], message: Callable[[Order, Number], OrderMessage | FinishMessage], limit: float
    ) -> Iterator[Reply | Failure]:
        there, waiting = set(self._connection.nodes()), dict[Number, _Open]()
        for order in orders:
            node = self.members.node(order.client.id)
            if node not in there:
                yield Failure(order.client.id, order.round, "not connected", "no answer")
                continue
            self._count += 1
            number = (self.session, self._count)
            sent = encode(message(order, number))
            ticket = self._connection.send(node, sent.data, limit)
            waiting[number] = _Open(order, node, number, ticket, sent, self._clock())
        until, seconds = self._clock() + limit, list[float]()
        while waiting and (left := until - self._clock()) > 0:
            for arrival in self._connection.collect(min(left, _POLL)):
                for asked, answer in self._take(arrival, waiting):
                    if isinstance(answer, Reply):
                        seconds.append(self._clock() - asked.at)
                    yield answer
        if orders:
            self._deadline.learn(orders[0].kind, seconds)
        for asked in waiting.values():
            traffic = Traffic(down=asked.sent.payload, overhead=asked.sent.overhead)
            client, round = asked.order.client.id, asked.order.round
            yield Failure(client, round, f"no answer within {limit:g} s", "no answer", traffic)

    def _take(self, arrival: Arrival, waiting: dict[Number, _Open]) -> list[tuple[_Open, Reply | Failure]]:
        """What an arrival answers, if it answers something that is waited for."""
        greeting = self._greetings.are_answered_by(arrival)
        lost = [asked for asked in waiting.values() if asked.ticket == arrival.ticket]
        if arrival.data is None:
            if greeting and not self.members.is_present(arrival.node):
                self._greetings.lost(arrival.node)
            elif not lost:
                self._note(arrival.node, f"too late to matter: {arrival.reason}")
            return [_lost(asked, waiting, arrival.reason, "no answer", len(arrival.reason)) for asked in lost]
        try:
            answer = decode_answer(arrival.data)
        except PayloadError as error:
            if greeting:
                self._refuse(arrival.node, self.members.name(arrival.node), error)
            return [_lost(asked, waiting, f"refused: {error}", "refused", len(arrival.data)) for asked in lost]
        if greeting:
            self._welcome(arrival.node, answer)
            return []
        if isinstance(answer, OrderAnswer) and answer.number is not None:
            asked = waiting.get(answer.number)
            if asked is not None and asked.node == arrival.node:
                return [_answered(asked, waiting, answer, len(arrival.data))]
        self._note(arrival.node, f"dropped: {_CALLED[type(answer)]} to an order that is not open")
        return []

    def _welcome(self, node: str, answer: Answer) -> None:
        """Take in a site that introduced itself, or say why not."""
        name = node
        try:
            if not isinstance(answer, Introduction | Refusal):
                raise PayloadError(f"it answers a hello with {_CALLED[type(answer)]}.")
            name = answer.name if isinstance(answer, Refusal) else answer.client.id
            differs = difference(self._shared, answer.shared, name)
            if differs:
                raise PayloadError(differs)
            if isinstance(answer, Refusal):
                raise PayloadError(f"it does not take part: {answer.reason}")
            self._check_client([answer.client])
            self.members.join(node, answer.client)
        except FedloraError as error:
            self._refuse(node, name, error)
        else:
            self._greetings.accept(node)
            self._note(node, f"hello: {name}, {answer.client.examples} examples, rank {answer.client.rank}")

    def _refuse(self, node: str, name: str, error: FedloraError) -> None:
        """Note why a site does not take part, once."""
        if self._greetings.refuse(node, f"Site {name} is refused: {error}"):
            self._note(node, f"refused: {error}")

    def _note(self, node: str, what: str) -> None:
        name = self.members.name(node)
        self._noted.append({"round": self._round, "site": name, "what": what})
        self._tell(f"site {name}: {what}")


def _answered(
    asked: _Open, waiting: dict[Number, _Open], answer: OrderAnswer, size: int
) -> tuple[_Open, Reply | Failure]:
    """An order is answered: it is not open any more."""
    del waiting[asked.number]
    order, up = asked.order, len(answer.payload) if isinstance(answer, ReplyMessage) else 0
    traffic = Traffic(asked.sent.payload, up, asked.sent.overhead + size - up)
    match answer:
        case ReplyMessage():
            return asked, replace(validate_encoded(order, answer), traffic=traffic)
        case FailureMessage(reason, kind):
            return asked, Failure(order.client.id, order.round, reason, kind, traffic)
        case Finished():
            return asked, Reply(order.client.id, order.round, traffic=traffic)


def _lost(
    asked: _Open, waiting: dict[Number, _Open], reason: str, kind: FailureKind, size: int
) -> tuple[_Open, Failure]:
    """There is no answer to an order, or none that can be read: it is not open any more."""
    del waiting[asked.number]
    traffic = Traffic(asked.sent.payload, 0, asked.sent.overhead + size)
    return asked, Failure(asked.order.client.id, asked.order.round, reason, kind, traffic)
