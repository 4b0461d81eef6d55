# SPDX-License-Identifier: Apache-2.0
"""Answers of sites in the loop's words. What a site says is not trusted to have any form."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fedlora.core.rounds import Client, Failure, Order, Reply, Traffic
from fedlora.deploy.messages import MOST_NAME, MOST_REASON, Message
from fedlora.errors import PayloadError
from fedlora.federation.validate import validate_encoded

_LARGEST = 2**40
"""Examples of a site, and its rank."""


def are_counts(value: Any) -> bool:
    """Whether this is a pair of whole numbers."""
    return isinstance(value, list) and len(value) == 2 and all(type(part) is int for part in value)


def read_hello(message: Message) -> tuple[str, Client | None, Mapping[str, str]]:
    """A site's name, the client that it is (None: it refuses), and its shared part of the config.

    Raises:
        PayloadError: it is no such thing, or the site has another reason to refuse.
    """
    told = message.envelope
    name, shared = told.get("name"), told.get("shared")
    counts: Any = [told.get("examples"), told.get("rank")]
    if not isinstance(name, str) or not 0 < len(name) <= MOST_NAME:
        raise PayloadError("its hello has no name.")
    if not isinstance(shared, dict) or not all(isinstance(value, str) for value in shared.values()):
        raise PayloadError("its hello has no shared part of a config.")
    if message.kind == "refused":
        return name, None, shared
    if not are_counts(counts) or not all(0 < count <= _LARGEST for count in counts):
        raise PayloadError("its hello has no counts of examples and rank.")
    return name, Client(name, *counts), shared


def answer_of(order: Order, message: Message | None, reason: str, traffic: Traffic) -> Reply | Failure:
    """What the answer to an order says, in the loop's words; without a message, why there is none."""
    client, round = order.client.id, order.round
    if message is None:
        return Failure(client, round, reason, traffic=traffic)
    told = message.envelope
    if message.kind == "finished":
        return Reply(client, round, traffic=traffic)
    if message.kind == "failure":
        lost, diverged = bool(told.get("state_lost")), bool(told.get("diverged"))
        said = told.get("reason")
        reason = said if isinstance(said, str) and said else "the site gave no reason"
        return Failure(client, round, reason[:MOST_REASON], state_lost=lost, diverged=diverged, traffic=traffic)
    if message.kind != "reply":
        return Failure(client, round, f"refused: a message of kind {message.kind!r}", refused=True, traffic=traffic)
    return replace(validate_encoded(order, json.dumps(told.get("reply")).encode(), message.payload), traffic=traffic)
