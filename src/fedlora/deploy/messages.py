# SPDX-License-Identifier: Apache-2.0
"""Letters: what server and sites send each other, as bytes.

A message is a kind, a JSON envelope and a payload: a digest of all that follows, four bytes that give the envelope's
length, the envelope, the payload. Whatever carries messages sees bytes alone; what it damages is not read.

====== ================ ===========================================================================
from   kind             what it says
====== ================ ===========================================================================
server hello            the shared part of the config, the run
site   hello            its name, examples, rank, shared part, and the round that its client state holds
site   refused          a sentence
server order            an order and its number
site   reply, failure   the answer to the order of that number
server finish           an order from which the site makes its own model, and the run's summary
site   finished         that it has
====== ================ ===========================================================================
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedlora.core.header import strict_json
from fedlora.core.text import is_plain
from fedlora.errors import PayloadError

_DIGEST, _LENGTH = 16, 4
MOST_ENVELOPE = 2**20
"""Bytes of the longest envelope."""
MOST_NAME, MOST_REASON = 100, 500
"""Characters of a site's name and of any key; of a sentence that says what is wrong."""
_LIMITS: Mapping[str, int] = {"kind": 40, "name": MOST_NAME, "run": 200, "reason": MOST_REASON}
"""Characters of the texts that end in records and logs; others are bounded by the envelope."""


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """One message."""

    kind: str
    envelope: Mapping[str, Any] = field(default_factory=dict)
    payload: bytes = b""


def encode_message(message: Message) -> bytes:
    """A message as bytes."""
    envelope = json.dumps({"kind": message.kind, **message.envelope}).encode()
    contents = len(envelope).to_bytes(_LENGTH, "big") + envelope + message.payload
    return _digest(contents) + contents


def decode_message(data: bytes) -> Message:
    """The inverse of `encode_message`. Strict: whatever a sender put into it can be written to a record as it is.

    Raises:
        PayloadError: these bytes are no message, not as they were sent, or hold text that no record should hold.
    """
    contents = data[_DIGEST:]
    if data[:_DIGEST] != _digest(contents):
        raise PayloadError(f"these {len(data)} bytes are damaged, or no message")
    size = int.from_bytes(contents[:_LENGTH], "big")
    if size > MOST_ENVELOPE:
        raise PayloadError(f"an envelope of {size} bytes, more than {MOST_ENVELOPE}")
    end = _LENGTH + size
    envelope = strict_json(contents[_LENGTH:end])
    if len(contents) < end or not isinstance(envelope, dict) or not isinstance(envelope.get("kind"), str):
        raise PayloadError(f"these {len(data)} bytes are no message")
    _require_plain(envelope)
    for key, most in _LIMITS.items():
        if isinstance(envelope.get(key), str) and len(envelope[key]) > most:
            raise PayloadError(f"a {key} of {len(envelope[key])} characters, more than {most}")
    return Message(envelope.pop("kind"), envelope, contents[end:])


def _require_plain(value: object) -> None:
    """Refuse half surrogates and control characters, wherever they stand."""
    if isinstance(value, str) and not is_plain(value, MOST_ENVELOPE):
        raise PayloadError("text with control characters or half a surrogate pair")
    if isinstance(value, dict):
        for key, entry in value.items():
            _require_plain(key)
            _require_plain(entry)
    elif isinstance(value, list):
        for entry in value:
            _require_plain(entry)


def _digest(contents: bytes) -> bytes:
    """Against damage, not against an enemy: that is what TLS and keys are for."""
    return hashlib.blake2b(contents, digest_size=_DIGEST).digest()
