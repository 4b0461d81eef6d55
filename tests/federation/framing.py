"""The parts of an encoded reply, and a message of changed parts: as a stranger would send it, with the right digest."""

from fedlora.federation.frame import pack

_BEGINS, _ENDS = b'{"kind": "reply", "number": [0, 0], "reply": ', b"}"


def parts(message):
    """What a reply says in JSON, and its payload."""
    size = int.from_bytes(message.data[16:20], "big")
    envelope, payload = message.data[20 : 20 + size], message.data[20 + size :]
    assert envelope.startswith(_BEGINS)
    return envelope[len(_BEGINS) : -len(_ENDS)], payload


def message_of(told, payload):
    """The bytes of a message whose reply is told in these words."""
    return pack(_BEGINS + told + _ENDS, payload)
