# SPDX-License-Identifier: Apache-2.0
"""Other values for the fields of a method or stage, and fields that change nothing whatever their value."""

import dataclasses
import itertools
from collections.abc import Collection, Mapping, Sequence
from random import Random
from typing import Any, Literal, get_args, get_origin, get_type_hints

from fedlora.core.adapter import HeadMode
from fedlora.core.payload import to_bytes
from fedlora.core.settings import Number, numbers
from fedlora.errors import MethodError
from fedlora.federation.pipeline import Pipeline
from fedlora.federation.stages.base import Stage
from fedlora.laws.world import World, play
from fedlora.methods.base import Method

_VARIATIONS = 24
"""Pipelines with other values that laws are tried on besides the given one."""
_HEADS: tuple[HeadMode, ...] = get_args(HeadMode)

Values = Mapping[str, Sequence[Any]]
"""Field -> some values, the given one first."""


def values_within(number: Number, given: float | None) -> list[Any]:
    """A few values that a field takes: the given one, the ends of its range, and some around the given one."""
    usual = given if given is not None else 1
    lows = [bound for limit in number.bounds for bound in (limit.at_least, limit.above) if bound is not None]
    highs = [bound for limit in number.bounds for bound in (limit.at_most, limit.below) if bound is not None]
    low, high = max(lows, default=usual / 4), min(highs, default=4 * usual + 1)
    inside = [low + (usual - low) / 64, high - (high - usual) / 64]  # a range may not hold its ends
    around = [usual / 2, 2 * usual, low, high, *inside]
    found = [given, *([None] if number.optional else [])]
    found += [round(value) if number.whole else float(value) for value in around]
    right = [value for value in found if value is None or number.wrong(value) is None]
    return [value for place, value in enumerate(right) if value not in right[:place]]


def bounded(subject: Method | Stage, fixed: Collection[str]) -> Values:
    """Values of the fields that hold numbers and declare a range, but the fixed ones."""
    known = numbers(type(subject))
    return {
        name: values_within(number, getattr(subject, name))
        for name, number in known.items()
        if number.bounds and name not in fixed
    }


def varied(subject: Method | Stage, fixed: Collection[str]) -> Values:
    """Values of every field that has more than one: numbers, also without a range; yes or no; choices."""
    types, known, found = get_type_hints(type(subject)), numbers(type(subject)), {}
    for field in dataclasses.fields(subject):
        value, kind = getattr(subject, field.name), types[field.name]
        if field.name in known:
            found[field.name] = values_within(known[field.name], value)
        elif kind is bool:
            found[field.name] = [value, not value]
        elif get_origin(kind) is Literal:
            found[field.name] = [value, *(choice for choice in get_args(kind) if choice != value)]
    return {name: values for name, values in found.items() if name not in fixed and len(values) > 1}


def variations(pipeline: Pipeline, subject: Method | Stage, fixed: Collection[str]) -> list[Pipeline]:
    """Some pipelines with other values of the subject's bounded numbers, of those that it takes together."""
    values, random = bounded(subject, fixed), Random(0)
    drawn = [{name: random.choice(some) for name, some in values.items()} for _ in range(_VARIATIONS if values else 0)]
    return [other for settings in drawn if (other := with_fields(pipeline, subject, settings)) is not None]


def with_fields(pipeline: Pipeline, subject: Method | Stage, settings: Mapping[str, Any]) -> Pipeline | None:
    """The pipeline with other values in the subject's fields; None: it does not take them together."""
    try:
        other = dataclasses.replace(subject, **settings)
        if isinstance(other, Method):
            return dataclasses.replace(pipeline, method=other)
        return dataclasses.replace(pipeline, stages=tuple(other if s is subject else s for s in pipeline.stages))
    except MethodError:
        return None


def takes(pipeline: Pipeline, world: World) -> bool:
    """Whether the method runs this federation."""
    try:
        pipeline.method.check_federation(world.spec, world.clients)
    except MethodError:
        return False
    return True


def silent_fields(
    pipelines: Sequence[Pipeline], subject: Method | Stage, fixed: Collection[str], count: int
) -> list[str]:
    """The fields whose value changes nothing in so many worlds, whatever the values of the others.

    Args:
        pipelines: in which the subject is tried.
        subject: the method, or a stage of each of them.
        fixed: fields that keep their value; of these nothing is said.
        count: worlds to look at.
    """
    values = varied(subject, fixed)
    return [name for name in values if _changes_nothing(pipelines, subject, values, name, count)]


def _changes_nothing(
    pipelines: Sequence[Pipeline], subject: Method | Stage, values: Values, name: str, count: int
) -> bool:
    random, compared = Random(0), False
    single = itertools.cycle([{other: value} for other, some in values.items() for value in some[1:]])
    for number, pipeline in zip(range(count), itertools.cycle(pipelines), strict=False):
        world = _world(pipeline, number)
        for others in ({}, next(single), {other: random.choice(some) for other, some in values.items()}):
            ends = [with_fields(pipeline, subject, others | {name: value}) for value in values[name]]
            seen = (_seen(each, world) for each in ends if each and takes(each, world))
            first = next(seen, None)
            for other in seen:
                compared = True
                if other != first:
                    return False
    return compared


def _world(pipeline: Pipeline, number: int) -> World:
    """One federation of three clients that all take part; another one for each number."""
    kinds = sorted(pipeline.facts.kinds)
    kind = kinds[number % len(kinds)]
    ranks = (1, 2, 3) if pipeline.facts.mixed_ranks and kind == "lora" else (2, 2, 2)
    head = _HEADS[number % len(_HEADS)]
    return World(((5, 4), (4, 6)), ranks, (3, 5, 4), 4, head=head, seed=number, kind=kind)


def _seen(pipeline: Pipeline, world: World) -> bytes:
    try:
        run = play(pipeline, world)
    except Exception as error:  # that is a difference too, if other values do not end in it
        return repr(error).encode()
    return run.fingerprint() + b"".join(to_bytes(payload) for payload in run.payloads())
