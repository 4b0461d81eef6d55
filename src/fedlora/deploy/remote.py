# SPDX-License-Identifier: Apache-2.0
"""The server's end: a transport that sends messages through some connection and takes in what comes back.

Every order has a number, and a number is open until its answer came or its time is over. An answer to a number that
is not open (a duplicate, a late one, one to an old round) is dropped and noted; nothing is counted twice.
"""

import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedlora.core.rounds import Client, Failure, Order, Reply, Traffic
from fedlora.deploy.answers import answer_of, are_counts, read_hello
from fedlora.deploy.connection import Arrival, Connection
from fedlora.deploy.members import Members
from fedlora.deploy.messages import Message, decode_message, encode_message
from fedlora.deploy.shared import difference, shared_digest
from fedlora.errors import ConfigError, FedloraError, PayloadError, UserError
from fedlora.federation.transport import encode_order

_POLL = 1.0
"""Seconds that a connection is asked to wait for something to come."""
_UNKNOWN, _FLOOR, _TIMES, _PAST = 3600.0, 30.0, 3.0, 5
"""The deadline: at first; at least; so many times the slowest answer of so many exchanges."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Whom to wait for, and how long; see [deploy] in the config."""

    sites: int
    wait: float = 300.0
    deadline: float | None = None


@dataclass(slots=True, eq=False)
class _Open:
    """An order that is waited for."""

    order: Order
    node: str
    number: tuple[int, int]
    ticket: str
    sent: int
    payload: int
    at: float


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
        clock: seconds.
    """

    def __init__(
        self,
        connection: Connection,
        shared: Mapping[str, str],
        run: str,
        patience: Patience,
        check_client: Callable[[Sequence[Client]], None],
        *,
        members: Members,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._connection, self._shared, self._run = connection, shared, run
        self._digest = shared_digest(shared)
        self._patience, self._check_client = patience, check_client
        self.members = members
        self._greeted: dict[str, str] = {}
        """Node -> ticket of the hello to it."""
        self._session, self._count = time.time_ns() // 1000, 0
        self._slowest: dict[str, deque[float]] = {}
        """Kind of order -> the slowest answer of the last exchanges."""
        self._round = 0
        self._noted: list[dict[str, object]] = []

    def gather(self) -> None:
        """Say hello until enough sites are there.

        Raises:
            AbsentError: they did not come in time.
            ConfigError: a site has another shared config.
        """
        until = self._clock() + self._patience.wait
        while (count := len(self.roster())) < self._patience.sites:
            left = until - self._clock()
            if left <= 0:
                came = ", ".join(client.id for client in self.roster()) or "none"
                raise AbsentError(
                    f"After {self._patience.wait:g} seconds {count} of {self._patience.sites} sites are "
                    f"there ({came}): start the others, or change deploy.sites or deploy.wait."
                )
            self._greet(left)
            before = len(self._greeted)
            for arrival in self._connection.collect(min(left, _POLL)):
                self._take(arrival, {}, strict=True)
            if len(self._greeted) < before or not self._greeted:
                time.sleep(min(left, _POLL))  # some are asked again, after a pause

    def roster(self) -> Sequence[Client]:
        """Everybody who has said hello."""
        return self.members.roster()

    def exchange(self, orders: Sequence[Order]) -> Iterator[Reply | Failure]:
        """Send the orders and yield what comes within the deadline."""
        self._round = orders[0].round if orders else self._round
        limit = self._limit(orders[0].kind if orders else "")
        self._greet(limit)
        yield from self._answers({order.client.id: ("order", order, {}) for order in orders}, limit)

    def finish(self, orders: Sequence[Order], summary: Mapping[str, object]) -> list[str]:
        """Have every site write its own model; returns those that have."""
        asked = {order.client.id: ("finish", order, {"summary": summary}) for order in orders}
        return [a.client for a in self._answers(asked, self._limit("evaluate")) if isinstance(a, Reply)]

    def notes(self) -> list[dict[str, object]]:
        """What was dropped, refused or lost since the last call."""
        noted, self._noted = self._noted, []
        return noted

    def _limit(self, kind: str) -> float:
        if self._patience.deadline is not None:
            return self._patience.deadline
        past = self._slowest.get(kind)
        return max(_FLOOR, round(_TIMES * max(past))) if past else _UNKNOWN

    def _answers(
        self, asked: Mapping[str, tuple[str, Order, Mapping[str, object]]], limit: float
    ) -> Iterator[Reply | Failure]:
        there, waiting = set(self._connection.nodes()), {}
        for client, (kind, order, further) in asked.items():
            node = self.members.node(client)
            if node not in there:
                yield Failure(client, order.round, "not connected", "no answer")
                continue
            own = self._send(kind, order, node, further, limit)
            waiting[own.number] = own
        until, slowest = self._clock() + limit, dict[str, float]()
        while waiting and (left := until - self._clock()) > 0:
            for arrival in self._connection.collect(min(left, _POLL)):
                for own, answer in self._take(arrival, waiting):
                    if isinstance(answer, Reply):
                        kind = own.order.kind
                        slowest[kind] = max(slowest.get(kind, 0.0), self._clock() - own.at)
                    yield answer
        for kind, seconds in slowest.items():
            self._slowest.setdefault(kind, deque(maxlen=_PAST)).append(seconds)
        for own in waiting.values():
            traffic = Traffic(down=own.payload, overhead=own.sent - own.payload)
            yield Failure(own.order.client.id, own.order.round, f"no answer within {limit:g} s", "no answer", traffic)

    def _send(self, kind: str, order: Order, node: str, further: Mapping[str, object], limit: float) -> _Open:
        self._count += 1
        number = (self._session, self._count)
        envelope, payload = encode_order(order)
        told = {"number": number, "run": self._run, "shared": self._digest, "order": json.loads(envelope), **further}
        data = encode_message(Message(kind, told, payload))
        ticket = self._connection.send(node, data, limit)
        return _Open(order, node, number, ticket, len(data), len(payload), self._clock())

    def _greet(self, patience: float) -> None:
        """Say hello to nodes that are new. Their answers come whenever they come."""
        there = self._connection.nodes()
        self._greeted = {node: ticket for node, ticket in self._greeted.items() if node in there}
        hello = encode_message(Message("hello", {"shared": self._shared, "run": self._run}))
        for node in there:
            if node not in self._greeted:
                self._greeted[node] = self._connection.send(node, hello, patience)

    def _take(
        self, arrival: Arrival, waiting: dict[tuple[int, int], _Open], strict: bool = False
    ) -> list[tuple[_Open, Reply | Failure]]:
        """What an arrival answers, if it answers something that is waited for."""
        greeting = self._greeted.get(arrival.node) == arrival.ticket
        lost = [own for own in waiting.values() if own.ticket == arrival.ticket]
        if arrival.data is None:
            if greeting and not self.members.is_present(arrival.node):
                del self._greeted[arrival.node]  # again, next time
            elif not lost:
                self._note(arrival.node, f"too late to matter: {arrival.reason}")
            return [self._close(own, waiting, None, len(arrival.reason), arrival.reason) for own in lost]
        try:
            message = decode_message(arrival.data)
        except PayloadError as error:
            if greeting:
                self._note(arrival.node, f"refused: {error}")
            return [self._close(own, waiting, None, len(arrival.data), f"refused: {error}") for own in lost]
        if greeting:
            self._welcome(arrival.node, message, strict)
            return []
        number: Any = message.envelope.get("number")
        own = waiting.get((number[0], number[1])) if are_counts(number) else None
        if own is None or own.node != arrival.node:
            self._note(arrival.node, f"dropped: a {message.kind} to an order that is not open")
            return []
        return [self._close(own, waiting, message, len(arrival.data), "")]

    def _close(
        self, own: _Open, waiting: dict[tuple[int, int], _Open], message: Message | None, size: int, reason: str
    ) -> tuple[_Open, Reply | Failure]:
        del waiting[own.number]
        up = len(message.payload) if message else 0
        traffic = Traffic(down=own.payload, up=up, overhead=own.sent - own.payload + size - up)
        return own, answer_of(own.order, message, reason, traffic)

    def _welcome(self, node: str, message: Message, strict: bool) -> None:
        """Take in a site that said hello, or say why not."""
        name = node
        try:
            name, client, shared = read_hello(message)
            differs = difference(self._shared, shared, name)
            if differs or client is None:
                raise PayloadError(differs or "it does not take part.")
            self._check_client([client])
            self.members.join(node, client)
        except FedloraError as error:
            if strict:
                raise ConfigError(f"Site {name} is refused: {error}") from error
            self._note(node, f"refused: {error}")
        else:
            self._note(node, f"hello: {name}, {client.examples} examples, rank {client.rank}")

    def _note(self, node: str, what: str) -> None:
        self._noted.append({"round": self._round, "site": self.members.name(node), "what": what})
