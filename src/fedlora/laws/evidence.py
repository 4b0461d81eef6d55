# SPDX-License-Identifier: Apache-2.0
"""What the laws read off a play: moves, owners, slots sent; and how they compare."""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from fedlora.core.adapter import SIDES, Adapter, AdapterSpec, Tensors, effective
from fedlora.core.kinds import Kind, Side, slot_axis
from fedlora.core.payload import Payload, Tree, branch, cast_floats, tensors_at, walk_tensors
from fedlora.core.rounds import Client
from fedlora.core.update import Update
from fedlora.federation.pipeline import Pipeline
from fedlora.federation.transport import split_head
from fedlora.laws.world import Play, World, play
from fedlora.methods.base import State


class BrokenLawError(AssertionError):
    """A law that does not hold, with what was seen."""


_KEPT: dict[tuple[int, World], tuple[Pipeline, Play]] = {}
_MOST_KEPT = 64


def observed(pipeline: Pipeline, world: World) -> Play:
    """The usual play of a world, kept for the next law on the same pipeline: laws that only look share one."""
    key = id(pipeline), world
    if key not in _KEPT:
        _KEPT[key] = pipeline, play(pipeline, world)  # kept beside it: the id stays taken
        if len(_KEPT) > _MOST_KEPT:
            del _KEPT[next(iter(_KEPT))]
    return _KEPT[key][1]


def require(condition: bool, message: str) -> None:
    """Raise `BrokenLawError` unless it holds."""
    if not condition:
        raise BrokenLawError(message)


def aggregations(run: Play) -> Iterator[tuple[int, State, list[Update]]]:
    """Of every round with accepted updates: the state before it, and those updates as they arrived."""
    content = run.federation.pipeline.facts.sends
    for record in run.records:
        updates = []
        for client in run.accepted(record.round):
            order, reply = run.exchange(record.round, client.id)
            updates.append(Update.from_payload(order.client, cast_floats(reply.payload, torch.float32), content))
        if updates:
            yield record.round, run.servers[record.round - 1].state, updates


def moves(run: Play, round: int, accepted: list[Client]) -> dict[str, tuple[Tensor, Tensor]]:
    """Per module, the weighted mean of (trained - start) and of trained, in effective deltas."""
    total = sum(client.weight for client in accepted)
    spec = run.world.spec
    result: dict[str, tuple[Tensor, Tensor]] = {}
    for client in accepted:
        job, fitted = run.trained(round, client.id)
        start, trained = effective(job.fit.start, spec), effective(fitted.start, spec)
        for module, value in trained.items():
            share = client.weight / total
            moved, whole = result.get(module, (torch.zeros(()), torch.zeros(())))
            result[module] = (moved + share * (value - start[module]), whole + share * value)
    return result


def close(found: Tensor, expected: Tensor, what: str, tolerance: float = 1e-5) -> None:
    """Require two tensors to be equal within a tolerance relative to their size."""
    error = float((found - expected).abs().max())
    size = 1.0 + float(expected.abs().max())
    require(error <= tolerance * size, f"{what} is off by {error:.3g} (largest entry {size - 1:.3g})")


def best(found: Tensor, target: Tensor, rank: int, what: str) -> None:
    """The best approximation of that rank: its error is the tail of the singular values."""
    tail = float(torch.linalg.svdvals(target)[rank:].square().sum())
    error = float((found - target).square().sum())
    require(
        abs(math.sqrt(error) - math.sqrt(tail)) <= 1e-4 * (1.0 + float(target.norm())),
        f"{what}: error {math.sqrt(error):.3g}, the tail of the singular values is {math.sqrt(tail):.3g}",
    )


def same(pipeline: Pipeline, spec: AdapterSpec, found: State, expected: State, message: str) -> None:
    """Equal models and heads; and equal sides, but where the server factors anew, since factors are free to rotate."""
    for name, head in expected.head.items():
        close(found.head[name], head, message)
    models = (pipeline.method.result(found), pipeline.method.result(expected))
    if models[0] is not None and models[1] is not None:
        effects = effective(models[0], spec)
        for module, value in effective(models[1], spec).items():
            close(effects[module], value, message)
    if not pipeline.facts.refactorizes:
        for side, module, tensor in each(expected.adapter):
            close(found.adapter.side(side)[module], tensor, message)


def equal(found: Tensors, expected: Tensors) -> bool:
    """Whether two mappings hold the same tensors, bit for bit."""
    return found.keys() == expected.keys() and all(found[name].equal(expected[name]) for name in expected)


def each(adapter: Adapter) -> Iterator[tuple[Side, str, Tensor]]:
    """Every tensor of an adapter with its side and module."""
    for side in SIDES:
        for module, tensor in adapter.side(side).items():
            yield side, module, tensor


def slots_of(kind: Kind, side: Side, tensor: Tensor) -> list[Tensor]:
    """The slots of one side of one module, a vector each; a side without slots is one vector."""
    axis = slot_axis(kind, side)
    return [tensor.flatten()] if axis is None else list(tensor.unbind(axis))


def moved_slots(side: Side, trained: Adapter, start: Adapter) -> list[Tensor]:
    """The slots of a side that training has moved."""
    moved = []
    for module, tensor in trained.side(side).items():
        before = slots_of(trained.kind, side, start.side(side)[module])
        after = slots_of(trained.kind, side, tensor)
        moved += [slot for slot, old in zip(after, before, strict=True) if not slot.equal(old)]
    return moved


def contains(payload: Payload, secrets: list[Tensor]) -> bool:
    """Whether one of the vectors stands in one of the payload's tensors, as a row or a column."""
    for tensor in walk_tensors(payload):
        if tensor.is_floating_point():
            lines = [tensor.flatten(), *(line for axis in range(tensor.ndim) for line in tensor.unbind(axis))]
            if any(line.equal(secret) for line in lines for secret in secrets):
                return True
    return False


def unowned_slots(run: Play, round: int) -> Iterator[tuple[Side, str, list[int]]]:
    """Of every side and module, the slots that nobody accepted sent."""
    kind = run.world.kind
    owned: dict[tuple[Side, str], set[int]] = {}
    for client in run.accepted(round):
        adapter, _ = split_head(run.transport.replies[round, client.id].payload)
        for side in SIDES:
            for module, entry in branch(adapter, side).items():
                owned.setdefault((side, module), set()).update(_numbers(kind, side, entry))
    for side, module, tensor in each(run.servers[round].state.adapter):
        slots = range(len(slots_of(kind, side, tensor)))
        yield side, module, [slot for slot in slots if slot not in owned.get((side, module), ())]


def slots_sent(kind: Kind, payload: Payload) -> dict[Side, int]:
    """How many slots of each side a payload holds, over all modules; absent sides are left out."""
    held: dict[Side, int] = {}
    for side in SIDES:
        entries = branch(payload, side)
        if entries:
            held[side] = sum(len(_numbers(kind, side, entry)) for entry in entries.values())
    return held


def _numbers(kind: Kind, side: Side, entry: Tree) -> list[int]:
    """Which slots an entry holds: the first ones of a tensor, or those that it names."""
    if isinstance(entry, Tensor):
        return list(range(len(slots_of(kind, side, entry))))
    return [int(slot) for slot in tensors_at({"entry": entry}, "entry")["slots"]]


def tampered(payload: Payload) -> Iterator[tuple[str, Payload]]:
    """An upload with something wrong in it, in words and as a payload."""
    yield "something that nobody asked for", {**payload, "more": torch.zeros(1)}
    first = next((tensor for tensor in walk_tensors(payload) if tensor.is_floating_point()), None)
    if first is not None:
        yield "a row more", _with(payload, first, torch.cat([first, first[:1]]))
        yield "numbers of another type", _with(payload, first, first.double())
        yield "a number that is not finite", _with(payload, first, torch.full_like(first, math.nan))


def _with(payload: Payload, old: Tensor, new: Tensor) -> Payload:
    """A payload with one tensor in another's place."""
    swapped: dict[str, Tree] = {}
    for key, value in payload.items():
        swapped[key] = new if value is old else _with(value, old, new) if isinstance(value, Mapping) else value
    return swapped
