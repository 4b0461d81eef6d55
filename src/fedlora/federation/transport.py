# SPDX-License-Identifier: Apache-2.0
"""The only seam between server and clients.

The round loop exists once and the client exists once; a simulation and a deployment differ in the
transport between them and in nothing else.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Protocol

from fedlora.core.header import strict_json
from fedlora.core.metrics import Score
from fedlora.core.payload import Payload, branch, from_bytes, to_bytes
from fedlora.core.rounds import Client, Failure, Order, Reply, Traffic
from fedlora.errors import PayloadError


class Transport(Protocol):
    """Carries orders to clients and their answers back."""

    def roster(self) -> Sequence[Client]:
        """Everybody who is there, in any order."""
        ...

    def exchange(self, orders: Sequence[Order]) -> Iterator[Reply | Failure]:
        """Deliver orders and yield the answers in any order of arrival, each with its traffic.

        A client that never answers is yielded as a `Failure` or not at all.
        """
        ...


def encode_order(order: Order) -> tuple[bytes, bytes]:
    """An order as (envelope, payload). The envelope is JSON, the payload is what counts as traffic."""
    envelope = {
        "kind": order.kind,
        "round": order.round,
        "client": asdict(order.client),
        "part": order.part,
    }
    return json.dumps(envelope).encode(), to_bytes(order.payload)


def decode_order(envelope: bytes, payload: bytes) -> Order:
    """The inverse of `encode_order`."""
    fields = json.loads(envelope)
    return Order(fields["kind"], fields["round"], Client(**fields["client"]), from_bytes(payload), fields["part"])


def encode_reply(reply: Reply) -> tuple[bytes, bytes]:
    """A reply as (envelope, payload)."""
    envelope = {
        "client": reply.client,
        "round": reply.round,
        "steps": reply.steps,
        "loss": reply.loss,
        "score": asdict(reply.score) if reply.score else None,
        "notes": reply.notes,
    }
    return json.dumps(envelope).encode(), to_bytes(reply.payload)


def decode_reply(envelope: bytes, payload: bytes) -> Reply:
    """The inverse of `encode_reply`. Bytes of a stranger go through `validate.validate_encoded`.

    Raises:
        PayloadError: these bytes are no reply.
    """
    return replace(read_envelope(envelope), payload=from_bytes(payload))


def read_envelope(envelope: bytes) -> Reply:
    """A reply without its payload.

    Raises:
        PayloadError: this is no envelope of a reply.
    """
    match strict_json(envelope):
        case {
            "client": str(client),
            "round": int(round),
            "steps": int(steps),
            "loss": int() | float() | None as loss,
            "score": score,
            "notes": dict(notes),
            **others,
        } if not others and not any(isinstance(own, bool) for own in (round, steps, loss)):
            return Reply(client, round, steps=steps, loss=loss, score=_read_score(score), notes=notes)
    raise PayloadError("this is no envelope of a reply")


def _read_score(fields: object) -> Score | None:
    match fields:
        case None:
            return None
        case {"examples": int(examples), "sums": dict(sums), **others} if not others and all(
            type(value) in (int, float) for value in (examples, *sums.values())
        ):
            return Score(examples, sums)
    raise PayloadError("this is no score")


def with_traffic(answer: Reply | Failure, down: tuple[bytes, bytes], up: tuple[bytes, bytes]) -> Reply | Failure:
    """The answer with its traffic counted from the bytes that were sent."""
    traffic = Traffic(down=len(down[1]), up=len(up[1]), overhead=len(down[0]) + len(up[0]))
    return replace(answer, traffic=traffic)


def split_head(payload: Payload) -> tuple[Payload, Payload]:
    """A message's payload as (the method's part, the head)."""
    return branch(payload, "adapter"), branch(payload, "head")


def join_head(adapter: Payload, head: Payload) -> Payload:
    """The inverse of `parts`; what is empty is left out."""
    whole = {"adapter": adapter, "head": head}
    return {key: value for key, value in whole.items() if value}
