# SPDX-License-Identifier: Apache-2.0
"""Our bytes in Flower's records: an array of bytes, which Flower sends in pieces and does not look into."""

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fedlora.core.text import is_plain
from fedlora.deploy.messages import MOST_REASON

_PLACE, _REASON = "p", "why"
_TYPE = "fedlora.payload"


def to_record(data: bytes) -> RecordDict:
    """Bytes as a message's content."""
    return RecordDict({_PLACE: ArrayRecord({_PLACE: Array("uint8", (len(data),), _TYPE, data)})})


def no_record(reason: str) -> RecordDict:
    """In place of bytes, why there are none."""
    return RecordDict({_REASON: ConfigRecord({_REASON: reason})})


def from_record(content: RecordDict) -> tuple[bytes | None, str]:
    """The bytes of a message, or None and why there are none."""
    if _PLACE in content.array_records:
        own = content.array_records[_PLACE].get(_PLACE)
        if own is not None and own.stype == _TYPE:
            return own.data, ""
    if _REASON in content.config_records:
        reason = content.config_records[_REASON].get(_REASON)
        plain = isinstance(reason, str) and is_plain(reason, MOST_REASON)
        return None, str(reason) if plain else "refused: a reason that is no plain text"
    return None, "refused: no message in the message"
