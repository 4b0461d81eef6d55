# SPDX-License-Identifier: Apache-2.0
"""Answers of sites in the loop's words. What a site says is not trusted to have any form."""

import json
from dataclasses import replace
from typing import Any

from fedlora.core.rounds import Failure, Order, Reply, Traffic
from fedlora.deploy.letters import Letter
from fedlora.federation.door import open_reply


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
        return Failure(client, round, str(told.get("reason")), memory_lost=lost, diverged=diverged, traffic=traffic)
    return replace(open_reply(order, json.dumps(told.get("reply")).encode(), letter.parcel), traffic=traffic)
