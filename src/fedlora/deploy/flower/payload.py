# SPDX-License-Identifier: Apache-2.0
"""Our bytes in Flower's records: an array of bytes, which Flower sends in pieces and does not look into."""

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

_PLACE, _REASON = "p", "why"
_TYPE = "fedlora.parcel"


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
        return None, str(content.config_records[_REASON].get(_REASON))[:500]
    return None, "refused: no letter in the message"
