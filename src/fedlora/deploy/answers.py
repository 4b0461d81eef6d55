# SPDX-License-Identifier: Apache-2.0
"""Answers of sites in the loop's words. What a site says is not trusted to have any form."""

import json
from typing import Any

from fedlora.core.rounds import Failure, Order, Reply, Traffic
from fedlora.deploy.letters import Letter
from fedlora.errors import ParcelError
from fedlora.federation.transport import decode_reply


def are_counts(value: Any) -> bool:
    """Whether this is a pair of whole numbers."""
    return isinstance(value, list) and len(value) == 2 and all(type(part) is int for part in value)


def answer_of(order: Order, letter: Letter | None, reason: str, traffic: Traffic) -> Reply | Failure:
    """What the answer to an order says, in the loop's words; without a letter, why there is none."""
    client, round = order.client.id, order.round
    if letter is None:
        return Failure(client, round, reason, traffic=traffic)
    told = letter.envelope
    if letter.kind == "finished":
        return Reply(client, round, traffic=traffic)
    if letter.kind == "failure":
        lost, diverged = bool(told.get("memory_lost")), bool(told.get("diverged"))
        return Failure(client, round, str(told.get("reason"))[:500], lost, diverged, traffic)
    try:
        reply = decode_reply(json.dumps(told["reply"]).encode(), letter.parcel)
        if (reply.client, reply.round) != (client, round):
            return Failure(client, round, f"refused: {reply.client} answered to round {reply.round}", traffic=traffic)
        return Reply(client, round, reply.parcel, reply.steps, reply.loss, reply.score, reply.notes, traffic)
    except (ParcelError, KeyError, TypeError, ValueError, AttributeError) as error:
        return Failure(client, round, f"refused: {type(error).__name__} in the answer", traffic=traffic)
