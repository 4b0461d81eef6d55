# SPDX-License-Identifier: Apache-2.0
"""One small federation before any law: what crashes is told once, with the line of the file that it stands in.

The laws would tell the same crash each in its own way. A function that gives back what nobody can go on with (nothing,
a tensor of another type, a number that is not finite) crashes somebody else later, so results are looked at here too.
"""

import inspect
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import fields
from types import NoneType
from typing import Any, TypeVar, cast

import torch

from fedlora.core.adapter import SIDES, Start
from fedlora.core.rounds import Fit
from fedlora.core.schema import UploadSchema
from fedlora.core.update import Update
from fedlora.errors import FedloraError, MethodError
from fedlora.federation.pipeline import Pipeline
from fedlora.federation.stages.base import Stage
from fedlora.laws.world import World, play
from fedlora.methods.base import Method, Outcome, State
from fedlora.methods.facts import Facts
from fedlora.methods.files import crash, source_file

Subject = TypeVar("Subject", Method, Stage)

_METHOD: Mapping[str, tuple[type, ...]] = {
    "init": (State,),
    "rank": (int,),
    "full_participation": (bool,),
    "dispatched_ranks": (Mapping,),
    "down": (frozenset,),
    "dispatch": (Mapping,),
    "upload_schema": (UploadSchema,),
    "advance": (State,),
    "aggregate": (State,),
    "result": (Start, NoneType),
    "trains": (frozenset,),
    "slots_up": (int, NoneType),
    "receive": (Start,),
    "upload": (tuple,),
}
_STAGE: Mapping[str, tuple[type, ...]] = {
    "facts": (Facts,),
    "request": (Fit,),
    "outgoing": (tuple,),
    "init": (Mapping,),
    "incoming": (Update,),
    "step": (tuple,),
}
"""What the functions of a method and of a stage give back."""


class _WrongResultError(Exception):
    """A function gave back what nobody can go on with; the text says what, and where it stands."""


def smoke(method: Method, stages: tuple[Stage, ...] = ()) -> None:
    """Run a method with its stages once, in a small federation of each kind of adapter that it takes.

    Raises:
        MethodError: something crashed, or gave back a wrong type; file, line and what to do.
    """
    subject: Method | Stage = stages[0] if stages else method
    seen: list[Exception] = []
    try:
        watched = Pipeline(_watched(method, _METHOD, seen), tuple(_watched(stage, _STAGE, seen) for stage in stages))
        for kind in sorted(watched.facts.kinds):
            play(watched, _world(watched, kind))
    except Exception as error:
        if isinstance(error, FedloraError) and not seen:
            raise
        seen.append(error)
    if seen:
        raise MethodError(_told(seen[0], source_file(type(subject)))) from seen[0]


def _told(error: Exception, file: str) -> str:
    return str(error) if isinstance(error, _WrongResultError | MethodError) else crash(error, file)


def _world(pipeline: Pipeline, kind: Any) -> World:
    mixed = pipeline.facts.mixed_ranks and kind == "lora"
    return World(((5, 4), (4, 6)), (1, 3) if mixed else (2, 2), (3, 5), 3, kind=kind)


def public_functions(kind: type) -> list[str]:
    """The functions of a class that others call."""
    return [name for name, value in vars(kind).items() if callable(value) and not name.startswith("_")]


def altered(subject: Subject, functions: Mapping[str, Any]) -> Subject:
    """The same method or stage, of a class with some functions in place of its class's."""
    kind = type(type(subject).__name__, (type(subject),), dict(functions))
    return cast(Subject, kind(**{field.name: getattr(subject, field.name) for field in fields(subject)}))


def _watched(subject: Subject, expected: Mapping[str, tuple[type, ...]], seen: list[Exception]) -> Subject:
    """The same, whose functions keep what they raise: a client's crash is otherwise only that client's failure."""
    names = public_functions(Method if isinstance(subject, Method) else Stage)
    functions: dict[str, Callable[..., Any]] = {}
    for name in names:
        hook = getattr(type(subject), name)
        watch = _programme if name == "client" else _function
        functions[name] = watch(hook, expected.get(name), seen)
    return altered(subject, functions)


def _function(hook: Callable[..., Any], types: tuple[type, ...] | None, seen: list[Exception]) -> Callable[..., Any]:
    def asked(*args: Any, **named: Any) -> Any:
        try:
            found = hook(*args, **named)
            _require_result(hook, found, types)
        except Exception as error:
            seen.append(error)
            raise
        return found

    return asked


def _programme(hook: Callable[..., Any], types: tuple[type, ...] | None, seen: list[Exception]) -> Callable[..., Any]:
    def asked(*args: Any, **named: Any) -> Generator[Fit, Any, Outcome]:
        try:
            programme = hook(*args, **named)
            _require_result(hook, programme, (Generator,))
            fitted: Any = None
            while True:
                try:
                    fit = programme.send(fitted)
                except StopIteration as stop:
                    _require_result(hook, stop.value, (Outcome,))
                    return cast(Outcome, stop.value)
                _require_result(hook, fit, (Fit,), "yielded")
                fitted = yield fit
        except Exception as error:
            seen.append(error)
            raise

    return asked


def _require_result(
    hook: Callable[..., Any], found: object, types: tuple[type, ...] | None, verb: str = "returned"
) -> None:
    """Refuse a result of another type, and a state that the next round cannot start from."""
    if types is not None and not isinstance(found, types):
        wanted = " or ".join("None" if kind is NoneType else kind.__name__ for kind in types)
        got = "None" if found is None else f"a {type(found).__name__}"
        raise _WrongResultError(f"{_place(hook)} {verb} {got}, expected {wanted}.")
    state = found[0] if isinstance(found, tuple) and found and isinstance(found[0], State) else found
    if isinstance(state, State):
        wrong = next(_wrong_tensors(state), None)
        if wrong:
            raise _WrongResultError(f"{_place(hook)} {verb} a State with {wrong}")


def _wrong_tensors(state: State) -> Iterator[str]:
    groups = {f"{side} side": state.adapter.side(side) for side in SIDES} | {"head": state.head}
    for place, tensors in groups.items():
        for name, tensor in tensors.items():
            if not isinstance(tensor, torch.Tensor):
                yield f"a {type(tensor).__name__} at {name} ({place}), expected a tensor."
            elif tensor.dtype != torch.float32:
                kind = str(tensor.dtype).removeprefix("torch.")
                yield f"{kind} at {name} ({place}), cast to float32: tensor.float()."
            elif not bool(tensor.isfinite().all()):
                yield f"numbers that are not finite at {name} ({place}): look for a division by zero."


def _place(hook: Callable[..., Any]) -> str:
    code = inspect.unwrap(hook).__code__
    return f"{code.co_filename}:{code.co_firstlineno}: {hook.__qualname__}"
