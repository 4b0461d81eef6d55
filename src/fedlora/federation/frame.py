# SPDX-License-Identifier: Apache-2.0
"""One message as bytes: a digest of all that follows, four bytes with the envelope's length, the envelope, the payload.

The envelope is JSON that names the kind of message; the payload is bytes of `core.payload`, or none. A frame is parsed
once, strictly, and not before its length is known to be small. What its texts hold can be written to a record as it is.
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
"""Bytes of the longest envelope, notes included."""
_LONGEST_KIND = 40


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A message before anybody has looked at what its kind asks of it."""

    kind: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    payload: bytes | memoryview = b""
    """As it was received: a view, for it may be large and is copied only by those who have seen what it is."""


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """A message as bytes, and how they are counted."""

    data: bytes
    payload: int
    """How many of the bytes are the payload: the traffic of a method. The rest is overhead."""

    @property
    def overhead(self) -> int:
        """Bytes of digest, length and envelope."""
        return len(self.data) - self.payload


def encode_frame(frame: Frame) -> Encoded:
    """A message as bytes."""
    envelope = json.dumps({"kind": frame.kind, **frame.fields}).encode()
    return Encoded(pack(envelope, frame.payload), len(frame.payload))


def pack(envelope: bytes, payload: bytes | memoryview) -> bytes:
    """An envelope and a payload under their digest."""
    contents = b"".join((len(envelope).to_bytes(_LENGTH, "big"), envelope, payload))
    return _digest(contents) + contents


def decode_frame(data: bytes) -> Frame:
    """The inverse of `encode_frame`.

    Raises:
        PayloadError: these bytes are no message, are not as they were sent, or hold text that no record should hold.
    """
    view = memoryview(data)
    if bytes(view[:_DIGEST]) != _digest(view[_DIGEST:]):
        raise PayloadError(f"these {len(data)} bytes are damaged, or no message")
    start = _DIGEST + _LENGTH
    size = int.from_bytes(view[_DIGEST:start], "big")
    if size > MOST_ENVELOPE:
        raise PayloadError(f"an envelope of {size} bytes, more than {MOST_ENVELOPE}")
    if len(data) < start + size:
        raise PayloadError(f"these {len(data)} bytes are no message")
    envelope = strict_json(bytes(view[start : start + size]))
    _require_plain(envelope)
    kind = envelope.pop("kind", None) if isinstance(envelope, dict) else None
    if not isinstance(envelope, dict) or not isinstance(kind, str) or len(kind) > _LONGEST_KIND:
        raise PayloadError("an envelope that names no kind of message")
    return Frame(kind, envelope, view[start + size :])


def _require_plain(value: object) -> None:
    """Refuse control characters and half surrogates, wherever they stand and however deep."""
    left = [value]
    while left:
        entry = left.pop()
        if isinstance(entry, str) and not is_plain(entry, MOST_ENVELOPE):
            raise PayloadError("text with control characters or half a surrogate pair")
        if isinstance(entry, dict):
            left += [*entry, *entry.values()]
        elif isinstance(entry, list):
            left += entry


def _digest(contents: bytes | memoryview) -> bytes:
    """Against damage, not against an enemy: that is what TLS and keys are for."""
    return hashlib.blake2b(contents, digest_size=_DIGEST).digest()
