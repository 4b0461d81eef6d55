# SPDX-License-Identifier: Apache-2.0
"""Letters: what server and sites send each other, as bytes.

A letter is a kind, a JSON envelope and a parcel: a digest of all that follows, four bytes that give the envelope's
length, the envelope, the parcel. Whatever carries letters sees bytes alone; what it damages is not read.

====== ================ ===========================================================================
from   kind             what it says
====== ================ ===========================================================================
server hello            the shared part of the config, the run
site   hello            its name, examples, rank, shared part, and the round that its memory holds
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

from fedlora.errors import ParcelError

_DIGEST, _LENGTH = 16, 4


@dataclass(frozen=True, slots=True, eq=False)
class Letter:
    """One message."""

    kind: str
    envelope: Mapping[str, Any] = field(default_factory=dict)
    parcel: bytes = b""


def seal(letter: Letter) -> bytes:
    """A letter as bytes."""
    envelope = json.dumps({"kind": letter.kind, **letter.envelope}).encode()
    contents = len(envelope).to_bytes(_LENGTH, "big") + envelope + letter.parcel
    return _digest(contents) + contents


def unseal(data: bytes) -> Letter:
    """The inverse of `seal`.

    Raises:
        ParcelError: these bytes are no letter, or not as they were sent.
    """
    contents = data[_DIGEST:]
    if data[:_DIGEST] != _digest(contents):
        raise ParcelError(f"these {len(data)} bytes are damaged, or no letter")
    end = _LENGTH + int.from_bytes(contents[:_LENGTH], "big")
    try:
        envelope = json.loads(contents[_LENGTH:end])
        kind = envelope.pop("kind")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ParcelError(f"these {len(data)} bytes are no letter") from error
    if len(contents) < end or not isinstance(kind, str) or not isinstance(envelope, dict):
        raise ParcelError(f"these {len(data)} bytes are no letter")
    return Letter(kind, envelope, contents[end:])


def _digest(contents: bytes) -> bytes:
    """Against damage, not against an enemy: that is what TLS and keys are for."""
    return hashlib.blake2b(contents, digest_size=_DIGEST).digest()
