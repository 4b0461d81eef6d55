# SPDX-License-Identifier: Apache-2.0
"""Collecting the answers of one round: validated in client order, counted, and read into updates."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace

import torch

from fedlora.core.payload import Payload, cast_floats, walk_tensors
from fedlora.core.rounds import Failure, Order, Reply
from fedlora.core.update import Update
from fedlora.errors import DivergedError, QuorumError
from fedlora.federation.parked import Parked
from fedlora.federation.record import ClientRecord, blank_record
from fedlora.federation.transport import split_head
from fedlora.federation.validate import validate_reply

_LONGEST = 500
"""Characters of a reason that the record keeps: a client may have written it."""

_UNUSED = "not used: fewer updates than deploy.quorum, for other clients had lost their states"


class Collector:
    """Validates the replies of one round and yields their updates in client order, in constant memory: nothing of a
    client is kept once its turn is over."""

    def __init__(self, orders: Sequence[Order]) -> None:
        self.records: dict[str, ClientRecord] = {}
        self.seen: dict[str, int] = {}
        self.lost: set[str] = set()
        self._orders = {order.client.id: order for order in orders}
        self._failures: list[Failure] = []

    def updates(self, answers: Iterable[Reply | Failure]) -> Iterator[Update]:
        """The accepted updates in client order, whatever the order of arrival."""
        turns = list(self._orders)
        with closing(Parked()) as waiting:
            for answer in answers:
                if answer.client in turns and answer.client not in waiting:
                    waiting.put(answer)
                while turns and (next_one := waiting.pop(turns[0])) is not None:
                    turns.pop(0)
                    yield from self._take(next_one)
            for client in turns:
                missing = Failure(client, self._orders[client].round, "no answer", "no answer")
                yield from self._take(waiting.pop(client) or missing)

    def _take(self, answer: Reply | Failure) -> Iterator[Update]:
        order = self._orders[answer.client]
        unread = blank_record(order.client, order.round, "accepted")
        _, head_down = split_head(order.payload)
        record = replace(unread, traffic=answer.traffic, head_bytes_down=_bytes(head_down))
        if isinstance(answer, Reply):
            answer = validate_reply(answer, order)
        if isinstance(answer, Failure):
            self._refuse(answer, record)
            return
        adapter, head = split_head(answer.payload)
        self.records[answer.client] = replace(
            record,
            steps=answer.steps,
            loss=answer.loss,
            notes=answer.notes,
            parameters_up=sum(t.numel() for t in walk_tensors(adapter) if t.is_floating_point()),
            head_bytes_up=_bytes(head),
        )
        self.seen[answer.client] = order.round
        content = order.schema.content if order.schema is not None else "values"
        yield Update.from_payload(order.client, cast_floats(answer.payload, torch.float32), content)

    def _refuse(self, failure: Failure, record: ClientRecord) -> None:
        self.records[failure.client] = record.failed(failure.reason[:_LONGEST])
        if failure.kind == "state lost":
            self.lost.add(failure.client)
        self._failures.append(failure)

    def require_quorum(self, quorum: int) -> bool:
        """See that enough clients took part. One that says that it lost its state did: its next order brings it all.

        Where it takes these to make up the number the round goes by without an update: that of fewer clients than the
        quorum would show too much of each.

        Args:
            quorum: how many; of fewer orders, all.

        Returns:
            Whether the updates count.

        Raises:
            DivergedError: too few did, and the first that failed lost the finite numbers.
            QuorumError: too few did, for another reason.
        """
        count, asked = len(self.seen) + len(self.lost), len(self._orders)
        if len(self.seen) >= min(quorum, asked):
            return True
        if count >= min(quorum, asked):
            for client in self.seen:
                self.records[client] = self.records[client].failed(_UNUSED)
            self.seen = {}
            return False
        first = self._failures[0]
        told = f"Round {first.round}: every client failed; client {first.client} with {first.reason}"
        if count:
            told = (
                f"Round {first.round}: {count} of {asked} clients gave an update, fewer than deploy.quorum ({quorum}); "
                f"client {first.client} failed with {first.reason}"
            )
        if first.kind == "diverged":
            raise DivergedError(f"{told}. Lower train.lr, or look at this client's data.")
        raise QuorumError(f"{told}. Mend the cause, then resume the run.")


def _bytes(payload: Payload) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in walk_tensors(payload))
