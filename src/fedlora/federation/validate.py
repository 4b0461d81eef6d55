# SPDX-License-Identifier: Apache-2.0
"""Validation: an answer is checked against what was ordered, before anything that it asks for is made.

From the outside in: the envelope and its size, the payload's size, its header, then types and shapes, and only
when all of that is as ordered the tensors themselves, their slot numbers, whether they are finite, and their
norm. What is refused is a `Failure` with a reason; the client counts as absent.
"""

import math
from collections.abc import Callable, Mapping, Set
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from fedlora.core.metrics import Score, Scoring
from fedlora.core.payload import Payload, Tree, branch, from_bytes, is_finite, outline, tensors_at, walk_tensors
from fedlora.core.rounds import Failure, Order, Reply
from fedlora.core.schema import Chosen, ReplySchema, TensorSpec, TensorSpecs
from fedlora.core.text import is_plain
from fedlora.errors import PayloadError
from fedlora.federation.frame import MOST_ENVELOPE
from fedlora.federation.transport import split_head
from fedlora.federation.wire import ReplyMessage, decode_answer

_DEEPEST = 8
"""How far notes may be nested."""
_TOLD = 80
"""Characters of a sender's own words that go into a reason."""
_LARGEST = 2**53
"""No whole number of an envelope is larger: what every reader of JSON can hold."""


def received(order: Order, data: bytes) -> Reply | Failure:
    """The reply to an order from a whole message's bytes, or why it is refused.

    Args:
        order: what this client was asked; who sent the bytes is for the transport to know.
        data: a message.
    """

    def message() -> Reply:
        answer = decode_answer(data)
        if not isinstance(answer, ReplyMessage):
            raise PayloadError("this is no reply")
        return _opened(order, answer)

    return _or_refusal(message, order)


def validate_encoded(order: Order, message: ReplyMessage) -> Reply | Failure:
    """The reply of a message with its payload decoded, or why it is refused. What still has to be seen of the tensors
    themselves is the collector's to look at, whatever way a reply came.

    Args:
        order: what this client was asked; who sent the message is for the transport to know.
        message: the answer to it.
    """
    return _or_refusal(lambda: _opened(order, message), order)


def _opened(order: Order, message: ReplyMessage) -> Reply:
    require_envelope(message.reply, order)
    payload = message.payload
    if order.schema is not None:
        most = order.schema.most_bytes()
        _require(len(payload) <= most, f"{len(payload)} bytes, more than the {most} that what was ordered can take")
        require_shapes(outline(payload, order.schema.most_header()), order.schema)
    return replace(message.reply, payload=from_bytes(bytes(payload)))


def validate_reply(reply: Reply, order: Order) -> Reply | Failure:
    """The reply itself, or why it is refused.

    Args:
        reply: as it came, by whatever way.
        order: what this client was asked.
    """

    def validated() -> Reply:
        require_envelope(reply, order)
        if order.schema is not None:
            require_shapes(reply.payload, order.schema)
            require_slots(reply.payload, order.schema)
        require_norm(reply.payload, order.schema.norm if order.schema else None)
        return reply

    return replace(_or_refusal(validated, order), traffic=reply.traffic)


def _or_refusal(made: Callable[[], Reply], order: Order) -> Reply | Failure:
    try:
        return made()
    except PayloadError as error:
        return Failure(order.client.id, order.round, f"refused: {error}", kind="refused")


def require_envelope(reply: Reply, order: Order) -> None:
    """Everything of a reply but its payload.

    Raises:
        PayloadError: it is not what was ordered.
    """
    _require(reply.client == order.client.id, f"a reply of {_told(reply.client)}")
    _require(reply.round == order.round, "a reply to another round")
    _require(0 <= reply.steps <= _LARGEST, "a number of steps that cannot be")
    _require(reply.loss is None or _is_finite(reply.loss), "a loss that is not finite")
    _require_plain(reply.notes, _DEEPEST)
    if order.schema is not None:
        asked = order.schema.scoring is not None
        _require((reply.score is not None) == asked, "a score where none was asked for, or none")
    if reply.score is not None:
        _require_score(reply.score, order.schema.scoring if order.schema else None)


def _require_score(score: Score, scoring: Scoring | None) -> None:
    _require(0 <= score.examples <= _LARGEST, "a score of numbers that cannot be")
    _require(all(_is_finite(value) for value in score.sums.values()), "a score that is not finite")
    fault = scoring.fault(score) if scoring else None
    _require(fault is None, fault or "")


def _require_plain(notes: Tree, deepest: int) -> None:
    """Plain scalars, and lists and mappings of them."""
    _require(deepest > 0, "notes that are nested too deeply")
    if isinstance(notes, Mapping):
        for key, value in notes.items():
            _require_plain(key, deepest)
            _require_plain(value, deepest - 1)
    elif isinstance(notes, list | tuple):
        for value in notes:
            _require_plain(value, deepest - 1)
    elif isinstance(notes, int | float):
        _require(_is_finite(notes), "notes with a number that is not finite, or too large")
    else:
        plain = is_plain(notes, MOST_ENVELOPE) if isinstance(notes, str) else notes is None
        _require(plain, "notes that are not plain")


def _is_finite(value: float) -> bool:
    """Whether a number of JSON is one that can be counted with: a whole one can have thousands of digits."""
    return abs(value) <= _LARGEST if isinstance(value, int) else math.isfinite(value)


def require_shapes(payload: Payload, schema: ReplySchema) -> None:
    """Keys, modules, types and shapes of a payload or of its outline.

    Raises:
        PayloadError: they are not what was ordered.
    """
    _require_known(payload, {"adapter", "head"})
    adapter, head = split_head(payload)
    expected = schema.expected
    keys = [str(side) for side in dict.fromkeys(side for wholes in expected.wholes for side in wholes)]
    _require_known(adapter, {*keys, *expected.chosen, *expected.numbers})
    sides = {key: branch(adapter, key) for key in keys}
    differences = [_difference(sides, {str(side): w for side, w in wholes.items()}) for wholes in expected.wholes]
    _require(None in differences, next((difference for difference in differences if difference), ""))
    for side, chosen in expected.chosen.items():
        _require_chosen(side, branch(adapter, side), chosen)
    for key, (low, high) in expected.numbers.items():
        if key in adapter:
            value = adapter[key]
            number = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
            _require(number, f"{key!r} is no number from {low:g} to {high:g}")
    of_head = _difference({"head": head}, {"head": schema.head})
    _require(of_head is None, of_head or "")


def _difference(found: Mapping[str, Payload], wanted: Mapping[str, TensorSpecs]) -> str | None:
    """The first thing in which tensors are not those that were wanted; None: they are."""
    for key, tensors in found.items():
        specs = wanted.get(key, {})
        for name in tensors:
            if name not in specs:
                return f"{_told(name)} under {key!r}, which was not ordered"
        for name, spec in specs.items():
            tensor = tensors.get(name)
            if not isinstance(tensor, Tensor):
                return f"no tensor {_told(name)} under {key!r}"
            if not _fits(tensor, spec):
                return f"{_told(name)} under {key!r} is {_form(tensor)}, not {_form(spec)}"
    return None


def _require_chosen(key: str, entries: Payload, chosen: Chosen) -> None:
    """Chosen slots, without a look at their numbers."""
    spent = 0
    for module in entries:
        _require(module in chosen.pool, f"{_told(module)} under {key!r}, which was not ordered")
        entry = branch(entries, module)
        _require_known(entry, {"slots", "values"})
        slots, values = entry.get("slots"), entry.get("values")
        if not isinstance(slots, Tensor) or not isinstance(values, Tensor):
            raise PayloadError(f"{module!r} under {key!r} does not hold slots and values")
        count, pool = slots.numel(), chosen.pool[module]
        shape = tuple(count if axis == chosen.axis else size for axis, size in enumerate(pool.shape))
        of_slots, of_values = TensorSpec((count,), chosen.index(module)), TensorSpec(shape, pool.dtype)
        for name, tensor, spec in (("slots", slots, of_slots), ("values", values, of_values)):
            _require(_fits(tensor, spec), f"{name} of {module!r} are {_form(tensor)}, not {_form(spec)}")
        _require(0 < count <= chosen.count(module), f"{count} slots of {module!r}, of {chosen.count(module)}")
        spent += count * chosen.prices[module]
    _require(spent <= chosen.budget, f"slots under {key!r} that cost {spent}, more than the budget of {chosen.budget}")


def require_slots(payload: Payload, schema: ReplySchema) -> None:
    """The numbers of chosen slots: of the pool, ascending, none twice.

    Raises:
        PayloadError: they are not.
    """
    adapter, _ = split_head(payload)
    for key, chosen in schema.expected.chosen.items():
        for module, entry in branch(adapter, key).items():
            numbers = [int(slot) for slot in tensors_at({"entry": entry}, "entry")["slots"].tolist()]
            rising = all(one < other for one, other in pairwise([-1, *numbers, chosen.count(module)]))
            _require(rising, f"slots of {module!r} that are not rising numbers below {chosen.count(module)}")


def require_norm(payload: Payload, limit: float | None) -> None:
    """Finite numbers, together no longer than a limit.

    Raises:
        PayloadError: they are not.
    """
    floats = [tensor for tensor in walk_tensors(payload) if tensor.is_floating_point()]
    if not floats:
        return
    lengths = [torch.linalg.vector_norm(tensor, dtype=torch.float32) for tensor in floats]
    norm = float(torch.linalg.vector_norm(torch.stack(lengths)))
    if not math.isfinite(norm):  # squares can leave the finite numbers before their roots do
        _require(is_finite(payload), "not finite")
    if limit is not None:
        _require(norm <= limit, f"a norm of {norm:.3g}, more than {limit:.3g}")


def _require_known(payload: Payload, keys: Set[str]) -> None:
    for key in payload:
        _require(key in keys, f"{_told(key)}, which was not ordered")


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise PayloadError(otherwise)


def _fits(tensor: Tensor, spec: TensorSpec) -> bool:
    return tuple(tensor.shape) == spec.shape and tensor.dtype == spec.dtype


def _form(of: Tensor | TensorSpec) -> str:
    return f"{tuple(of.shape)} of {str(of.dtype).removeprefix('torch.')}"


def _told(name: str) -> str:
    """A name that somebody else chose, at a length that a record can hold."""
    return repr(name if len(name) <= _TOLD else f"{name[:_TOLD]}...")
