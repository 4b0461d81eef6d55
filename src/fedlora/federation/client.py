# SPDX-License-Identifier: Apache-2.0
"""The client's side of a round, for a block of clients at once.

Each client's half of the method is a coroutine. `serve` advances all of them to their next `Fit`, answers
all pending fits in one call of the trainer, and goes on until all are done. Heads are handled here, once
for all methods: put under every fit, and kept or sent by the federation's head mode.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from fedlora.core.adapter import AdapterSpec, Start, Tensors
from fedlora.core.parcel import Parcel, cast_floats, tensors_at
from fedlora.core.rounds import (
    Failure,
    Fit,
    FitJob,
    Fitted,
    Memory,
    Order,
    Reply,
    ScoreJob,
    Trainer,
)
from fedlora.errors import MemoryLostError, UserError
from fedlora.federation.transport import message, parts
from fedlora.methods.base import Method, Outcome


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """What became of one order."""

    answer: Reply | Failure
    memory: Memory | None = None
    """What the client keeps of it; None: what it had."""


@dataclass(slots=True, eq=False)
class _Run:
    """One client's coroutine on its way."""

    order: Order
    programme: Generator[Fit, Fitted, tuple[Outcome, Tensors]]
    fit: Fit | None = None
    fitted: Fitted | None = None
    steps: int = 0
    served: Served | None = None


def serve(
    orders: Sequence[Order],
    memories: Mapping[str, Memory],
    method: Method,
    trainer: Trainer,
) -> list[Served]:
    """Carry out a block of orders, at most one a client.

    Args:
        orders: of either kind.
        memories: by client, the newest memory that is older than the order's round (for an evaluation:
            the newest).
        method: the same object that the server has.
        trainer: answers fits and scores.

    Returns:
        What became of each order, in their order. An error of one client is that client's `Failure`.
    """
    served: dict[int, Served] = {}
    training = [index for index, order in enumerate(orders) if order.kind == "train"]
    evaluating = [index for index, order in enumerate(orders) if order.kind == "evaluate"]
    runs = [_begin(orders[index], memories, method, trainer.spec) for index in training]
    _train(runs, method, trainer)
    served.update((i, run.served) for i, run in zip(training, runs, strict=True) if run.served)
    scored = _evaluate([orders[index] for index in evaluating], memories, method, trainer)
    served.update(zip(evaluating, scored, strict=True))
    return [served[index] for index in range(len(orders))]


def _begin(order: Order, memories: Mapping[str, Memory], method: Method, spec: AdapterSpec) -> _Run:
    return _Run(order, _programme(order, memories.get(order.client.id), method, spec))


def _train(runs: Sequence[_Run], method: Method, trainer: Trainer) -> None:
    for run in runs:
        _advance(run, None, method, trainer.spec)
    while pending := [run for run in runs if run.served is None]:
        jobs = [FitJob(r.order.client.id, r.order.round, r.fit) for r in pending if r.fit is not None]
        for run, answer in zip(pending, _scored(jobs, trainer.fit(jobs), trainer), strict=True):
            if isinstance(answer, Failure):
                run.served = Served(answer)
            else:
                _advance(run, answer, method, trainer.spec)


def _scored(jobs: Sequence[FitJob], answers: Sequence[Fitted | Failure], trainer: Trainer) -> list[Fitted | Failure]:
    """The answers, with scores where the fits asked for them."""
    result = list(answers)
    wanted = {
        index: ScoreJob(job.client, answer.start, job.fit.score_on)
        for index, (job, answer) in enumerate(zip(jobs, answers, strict=True))
        if job.fit.score_on is not None and isinstance(answer, Fitted)
    }
    for index, score in zip(wanted, trainer.score(list(wanted.values())) if wanted else (), strict=True):
        answer = result[index]
        if isinstance(score, Failure) or isinstance(answer, Failure):
            result[index] = score if isinstance(score, Failure) else answer
        else:
            result[index] = replace(answer, score=score)
    return result


def _advance(run: _Run, fitted: Fitted | None, method: Method, spec: AdapterSpec) -> None:
    """Take one coroutine to its next fit, or to its end."""
    try:
        if fitted is None:
            run.fit = next(run.programme)
        else:
            run.fitted, run.steps = fitted, run.steps + fitted.steps
            run.fit = run.programme.send(fitted)
    except StopIteration as stop:
        run.served = _finish(run, stop.value, method, spec)
    except UserError:
        raise
    except Exception as error:
        run.served = Served(_failure(run.order, error))


def _finish(run: _Run, end: tuple[Outcome, Tensors], method: Method, spec: AdapterSpec) -> Served:
    outcome, head = end
    mode = method.head_mode(spec)
    up = message(outcome.parcel, head if mode == "shared" else {})
    reply = Reply(
        client=run.order.client.id,
        round=run.order.round,
        parcel=cast_floats(up, spec.wire),
        steps=run.steps,
        loss=run.fitted.loss if run.fitted else None,
        notes=outcome.notes,
    )
    if not method.must_remember(spec):
        return Served(reply)
    return Served(reply, Memory(run.order.round, outcome.kept, head if mode == "private" else {}))


def _programme(
    order: Order, memory: Memory | None, method: Method, spec: AdapterSpec
) -> Generator[Fit, Fitted, tuple[Outcome, Tensors]]:
    """The method's own coroutine, with the client's head under every fit; ends with the trained head."""
    parcel, head = _open(order, memory, method, spec)
    inner = method.client(parcel, memory.kept if memory else {}, order.client, spec, order.round)
    fit, trained = next(inner), head
    while True:
        start = Start(fit.start.adapter.with_dense(head), fit.start.fold)
        fitted = yield replace(fit, start=start)
        trained = fitted.start.adapter.dense
        try:
            fit = inner.send(fitted)
        except StopIteration as stop:
            return stop.value, trained


def _open(order: Order, memory: Memory | None, method: Method, spec: AdapterSpec) -> tuple[Parcel, Tensors]:
    """What an order brought: the method's part, and the head that this client starts from."""
    seen = order.client.seen
    if seen is not None and method.must_remember(spec) and (memory is None or memory.round < seen):
        held = "nothing" if memory is None else f"round {memory.round}"
        raise MemoryLostError(f"the order builds on round {seen}, but this client holds {held}")
    parcel = cast_floats(order.parcel, torch.float32)
    method_part, _ = parts(parcel)
    mode = method.head_mode(spec)
    if mode == "private":
        return method_part, memory.head if memory else {}
    return method_part, tensors_at(parcel, "head") if mode == "shared" else {}


def _evaluate(
    orders: Sequence[Order], memories: Mapping[str, Memory], method: Method, trainer: Trainer
) -> list[Served]:
    served: dict[int, Served] = {}
    jobs: dict[int, ScoreJob] = {}
    for index, order in enumerate(orders):
        try:
            model = personal_model(order, memories.get(order.client.id), method, trainer.spec)
            jobs[index] = ScoreJob(order.client.id, model, order.part)
        except UserError:
            raise
        except Exception as error:
            served[index] = Served(_failure(order, error))
    for (index, _), score in zip(jobs.items(), trainer.score(list(jobs.values())), strict=True):
        order = orders[index]
        answer = score if isinstance(score, Failure) else Reply(order.client.id, order.round, score=score)
        served[index] = Served(answer)
    return [served[index] for index in range(len(orders))]


def personal_model(order: Order, memory: Memory | None, method: Method, spec: AdapterSpec) -> Start:
    """What a client makes of an order without training on it: its own model, under its head.

    Raises:
        MemoryLostError: the order builds on what the client no longer holds.
    """
    parcel, head = _open(order, memory, method, spec)
    start = method.receive(parcel, memory.kept if memory else {}, order.client, spec)
    return Start(start.adapter.with_dense(head), start.fold)


def _failure(order: Order, error: Exception) -> Failure:
    reason = f"{type(error).__name__}: {error}"
    return Failure(order.client.id, order.round, reason, memory_lost=isinstance(error, MemoryLostError))
