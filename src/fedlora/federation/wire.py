# SPDX-License-Identifier: Apache-2.0
"""The messages between server and clients, the same in a simulation through bytes, between sites and over Flower.

============ ================= ======================================================================
kind         from              what it says
============ ================= ======================================================================
hello        server            the shared part of the config, the run
introduction site              its name, examples, weight and rank, and the shared part of its config
refused      site              why it does not take part
order        server            what to train or evaluate
finish       server            an order from which the site makes its final model; the run's summary
reply        client            the answer to an order; its payload is still encoded
failure      client            why there is no reply
finished     site              that its final model is written
============ ================= ======================================================================

Each is read once, from its bytes to its type, and holds exactly the fields of its kind. The payload of a reply stays
encoded: how large it may be and what it may hold is known to those who hold the order, see `validate`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from fedlora.core.payload import from_bytes, to_bytes
from fedlora.core.rounds import Client, FailureKind, Order, Reply
from fedlora.errors import PayloadError
from fedlora.federation.frame import Encoded, Frame, decode_frame, encode_frame
from fedlora.federation.wire_fields import LARGEST, Number, are_whole, number_in, score_in, short, texts_in, weight_in

MOST_NAME, MOST_RUN, MOST_REASON = 100, 200, 500
"""Characters of a site's name, of a run's, and of a sentence that says what is wrong."""
_UNNUMBERED = (0, 0)
"""In a simulation, where no answer can go astray."""


@dataclass(frozen=True, slots=True, eq=False)
class Hello:
    """The server asks who is there."""

    shared: Mapping[str, str]
    run: str


@dataclass(frozen=True, slots=True, eq=False)
class OrderMessage:
    """An order."""

    order: Order
    number: Number = _UNNUMBERED
    run: str = ""
    shared: str = ""
    """A digest of the shared part of the config, as it was at the hello."""


@dataclass(frozen=True, slots=True, eq=False)
class FinishMessage:
    """The run is over: the last order, and the summary for the page of the site's final model."""

    order: Order
    number: Number
    run: str
    shared: str
    summary: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Introduction:
    """A site says who it is."""

    client: Client
    shared: Mapping[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class Refusal:
    """A site does not take part."""

    name: str
    reason: str
    shared: Mapping[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class ReplyMessage:
    """A reply without its payload, and the encoded payload."""

    reply: Reply
    payload: bytes | memoryview
    number: Number = _UNNUMBERED


@dataclass(frozen=True, slots=True, eq=False)
class FailureMessage:
    """Why there is no reply."""

    reason: str
    kind: FailureKind = "error"
    number: Number | None = None
    """None: it could not be read."""


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """A site has written its final model."""

    number: Number


Request = Hello | OrderMessage | FinishMessage
Answer = Introduction | Refusal | ReplyMessage | FailureMessage | Finished
_TOLD: tuple[FailureKind, ...] = ("error", "diverged", "state lost")
"""The kinds of failure that a client can tell of; the others are found by the server."""


def encode(message: Request | Answer) -> Encoded:
    """A message as bytes."""
    return encode_frame(_to_client(message) if isinstance(message, Request) else _from_client(message))


def encode_reply(reply: Reply, number: Number = _UNNUMBERED) -> Encoded:
    """A reply as bytes, its payload encoded."""
    return encode(ReplyMessage(reply, to_bytes(reply.payload), number))


def _to_client(message: Request) -> Frame:
    match message:
        case Hello(shared, run):
            return Frame("hello", {"shared": dict(shared), "run": run})
        case OrderMessage(order, number, run, shared):
            fields = {"number": number, "run": run, "shared": shared, "order": _order_fields(order)}
            return Frame("order", fields, to_bytes(order.payload))
        case FinishMessage(order, number, run, shared, summary):
            fields = {"number": number, "run": run, "shared": shared, "order": _order_fields(order)}
            return Frame("finish", {**fields, "summary": summary}, to_bytes(order.payload))


def _from_client(message: Answer) -> Frame:
    match message:
        case Introduction(client, shared):
            return Frame("introduction", {"name": client.id, **_client_fields(client), "shared": dict(shared)})
        case Refusal(name, reason, shared):
            return Frame("refused", {"name": name, "reason": reason, "shared": dict(shared)})
        case ReplyMessage(reply, payload, number):
            return Frame("reply", {"number": number, "reply": _reply_fields(reply)}, payload)
        case FailureMessage(reason, kind, number):
            return Frame("failure", {"number": number, "reason": reason, "failure": kind})
        case Finished(number):
            return Frame("finished", {"number": number})


def _order_fields(order: Order) -> dict[str, object]:
    told = {"id": order.client.id, **_client_fields(order.client), "last_seen_round": order.client.last_seen_round}
    return {"kind": order.kind, "round": order.round, "client": told, "part": order.part}


def _client_fields(client: Client) -> dict[str, object]:
    """What counts of a client; its weight where that is not the number of its examples."""
    weight = {} if client.counted_as is None else {"weight": client.counted_as}
    return {"examples": client.examples, "rank": client.rank, **weight}


def _reply_fields(reply: Reply) -> dict[str, object]:
    score = {"examples": reply.score.examples, "sums": dict(reply.score.sums)} if reply.score else None
    told = {"client": reply.client, "round": reply.round, "steps": reply.steps, "loss": reply.loss}
    return {**told, "score": score, "notes": reply.notes}


def decode_request(data: bytes) -> Request:
    """What a server asks, with the order's payload.

    Raises:
        PayloadError: these bytes are no such message.
    """
    frame = decode_frame(data)
    match frame.kind, frame.fields:
        case "hello", {"shared": dict(shared), "run": str(run), **others} if not (others or frame.payload):
            return Hello(texts_in(shared), short(run, MOST_RUN))
        case (
            ("order" | "finish"),
            {
                "number": list(number),
                "run": str(run),
                "shared": str(shared),
                "order": dict(told),
                **others,
            },
        ):
            given = number_in(number), short(run, MOST_RUN), shared
            match frame.kind, others:
                case "order", {**rest} if not rest:
                    return OrderMessage(_order(told, frame.payload), *given)
                case "finish", {"summary": dict(summary), **rest} if not rest:
                    return FinishMessage(_order(told, frame.payload), *given, summary)
    raise PayloadError(f"this is no message of kind {frame.kind!r} to a client")


def decode_answer(data: bytes) -> Answer:
    """What a client or a site says. It is not trusted to have any form.

    Raises:
        PayloadError: these bytes are no such message.
    """
    frame = decode_frame(data)
    match frame.kind, frame.fields:
        case "reply", {"number": list(number), "reply": dict(reply), **others} if not others:
            return ReplyMessage(_reply(reply), frame.payload, number_in(number))
        case _ if frame.payload:
            raise PayloadError(f"a message of kind {frame.kind!r} with a payload")
        case "failure", {"number": list() | None as number, "reason": str(reason), "failure": kind, **others} if (
            not others and kind in _TOLD
        ):
            reason = short(reason, MOST_REASON) or "the site gave no reason"
            return FailureMessage(reason, cast(FailureKind, kind), None if number is None else number_in(number))
        case "finished", {"number": list(number), **others} if not others:
            return Finished(number_in(number))
        case "refused", {"name": str(name), "reason": str(reason), "shared": dict(shared), **others} if not others:
            return Refusal(short(name, MOST_NAME, 1), short(reason, MOST_REASON), texts_in(shared))
        case "introduction", {
            "name": str(name),
            "examples": int(examples),
            "rank": int(rank),
            "shared": dict(shared),
            **others,
        } if not others.keys() - {"weight"} and are_whole(examples, rank):
            weight = weight_in(others)
            if not (0 < examples <= LARGEST and 0 < rank <= LARGEST):
                raise PayloadError("an introduction with numbers of examples and rank that cannot be")
            return Introduction(Client(short(name, MOST_NAME, 1), examples, rank, counted_as=weight), texts_in(shared))
    raise PayloadError(f"this is no message of kind {frame.kind!r} from a client")


def _order(fields: Mapping[str, Any], payload: bytes | memoryview) -> Order:
    match fields:
        case {
            "kind": "train" | "evaluate" as kind,
            "round": int(round),
            "client": {
                "id": str(name),
                "examples": int(examples),
                "rank": int(rank),
                "last_seen_round": int() | None as seen,
                **more,
            },
            "part": "test" | "validation" as part,
            **others,
        } if not (others or more.keys() - {"weight"}) and are_whole(round, examples, rank, seen or 0):
            client = Client(name, examples, rank, seen, weight_in(more))
            return Order(kind, round, client, from_bytes(bytes(payload)), part)
    raise PayloadError("this is no order")


def _reply(fields: Mapping[str, Any]) -> Reply:
    match fields:
        case {
            "client": str(client),
            "round": int(round),
            "steps": int(steps),
            "loss": int() | float() | None as loss,
            "score": score,
            "notes": dict(notes),
            **others,
        } if not others and are_whole(round, steps) and not isinstance(loss, bool):
            return Reply(client, round, steps=steps, loss=loss, score=score_in(score), notes=notes)
    raise PayloadError("this is no reply")
