# SPDX-License-Identifier: Apache-2.0
"""The client's side of a round, for a client batch of clients at once.

Each client's half of the method is a coroutine. `serve` advances all of them to their next `Fit`, answers
all pending fits in one call of the trainer, and goes on until all are done. Heads are handled here, once
for all methods: put under every fit, and kept or made part of the update by the federation's head mode. Whatever is
sent has gone through the stages, the head included.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from fedlora.core.adapter import AdapterSpec, Start, Tensors
from fedlora.core.payload import Payload, cast_floats, tensors_at
from fedlora.core.rounds import (
    ClientState,
    Failure,
    Fit,
    FitJob,
    Fitted,
    Order,
    Reply,
    ScoreJob,
    Trainer,
)
from fedlora.errors import StateLostError
from fedlora.federation.isolate import failure_of, fit_each, score_each
from fedlora.federation.pipeline import Pipeline
from fedlora.federation.transport import split_head
from fedlora.methods.base import Outcome


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """What became of one order."""

    answer: Reply | Failure
    client_state: ClientState | None = None
    """What the client keeps of it; None: what it had."""


@dataclass(slots=True, eq=False)
class _Run:
    """One client's coroutine on its way."""

    order: Order
    stages: Payload
    """What the stages kept in the client's last round."""
    programme: Generator[Fit, Fitted, tuple[Outcome, Tensors]]
    fit: Fit | None = None
    fitted: Fitted | None = None
    steps: int = 0
    served: Served | None = None


def serve(
    orders: Sequence[Order],
    client_states: Mapping[str, ClientState],
    pipeline: Pipeline,
    trainer: Trainer,
) -> list[Served]:
    """Carry out a client batch of orders, at most one a client.

    Args:
        orders: of either kind.
        client_states: by client, the newest client state that is older than the order's round (for an evaluation:
            the newest).
        pipeline: the same method and stages that the server has.
        trainer: answers fits and scores.

    Returns:
        What became of each order, in their order. An error of one client is that client's `Failure`.
    """
    served: dict[int, Served] = {}
    training = [index for index, order in enumerate(orders) if order.kind == "train"]
    evaluating = [index for index, order in enumerate(orders) if order.kind == "evaluate"]
    runs = [_begin(orders[index], client_states, pipeline, trainer.spec) for index in training]
    _train(runs, pipeline, trainer)
    served.update((i, run.served) for i, run in zip(training, runs, strict=True) if run.served)
    scored = _evaluate([orders[index] for index in evaluating], client_states, pipeline, trainer)
    served.update(zip(evaluating, scored, strict=True))
    return [served[index] for index in range(len(orders))]


def _begin(order: Order, client_states: Mapping[str, ClientState], pipeline: Pipeline, spec: AdapterSpec) -> _Run:
    held = client_states.get(order.client.id)
    return _Run(order, held.stages if held else {}, _programme(order, held, pipeline, spec))


def _train(runs: Sequence[_Run], pipeline: Pipeline, trainer: Trainer) -> None:
    for run in runs:
        _advance(run, None, pipeline, trainer.spec)
    while pending := [run for run in runs if run.served is None]:
        jobs = [FitJob(r.order.client.id, r.order.round, r.fit) for r in pending if r.fit is not None]
        for run, answer in zip(pending, _scored(jobs, fit_each(trainer, jobs), trainer), strict=True):
            if isinstance(answer, Failure):
                run.served = Served(answer)
            else:
                _advance(run, answer, pipeline, trainer.spec)


def _scored(jobs: Sequence[FitJob], answers: Sequence[Fitted | Failure], trainer: Trainer) -> list[Fitted | Failure]:
    """The answers, with scores where the fits asked for them."""
    result = list(answers)
    wanted = {
        index: ScoreJob(job.client, answer.start, job.fit.score_on)
        for index, (job, answer) in enumerate(zip(jobs, answers, strict=True))
        if job.fit.score_on is not None and isinstance(answer, Fitted)
    }
    rounds = [jobs[index].round for index in wanted]
    for index, score in zip(wanted, score_each(trainer, list(wanted.values()), rounds), strict=True):
        answer = result[index]
        if isinstance(score, Failure) or isinstance(answer, Failure):
            result[index] = score if isinstance(score, Failure) else answer
        else:
            result[index] = replace(answer, score=trainer.scoring.goodness(score))
    return result


def _advance(run: _Run, fitted: Fitted | None, pipeline: Pipeline, spec: AdapterSpec) -> None:
    """Take one coroutine to its next fit, or to its end."""
    try:
        run.served = _resume(run, fitted, pipeline, spec)
    except Exception as error:
        run.served = Served(failure_of(run.order.client.id, run.order.round, error))


def _resume(run: _Run, fitted: Fitted | None, pipeline: Pipeline, spec: AdapterSpec) -> Served | None:
    """The end of a coroutine; None: it asks for another fit."""
    try:
        if fitted is None:
            run.fit = next(run.programme)
        else:
            run.fitted, run.steps = fitted, run.steps + fitted.steps
            run.fit = run.programme.send(fitted)
    except StopIteration as stop:
        return _finish(run, stop.value, pipeline, spec)
    return None


def _finish(run: _Run, end: tuple[Outcome, Tensors], pipeline: Pipeline, spec: AdapterSpec) -> Served:
    """The update with its head, through the stages, as a reply; and what the client keeps."""
    outcome, head = end
    mode = pipeline.facts.head_mode(spec)
    update = replace(outcome.update, head=head if mode == "shared" else {})
    update, stages = pipeline.outgoing(update, run.stages)
    reply = Reply(
        client=run.order.client.id,
        round=run.order.round,
        payload=cast_floats(update.to_payload(), spec.wire),
        steps=run.steps,
        loss=run.fitted.loss if run.fitted else None,
        notes=outcome.notes,
    )
    if not pipeline.facts.keeps_client_state(spec):
        return Served(reply)
    return Served(reply, ClientState(run.order.round, outcome.kept, head if mode == "private" else {}, stages))


def _programme(
    order: Order, client_state: ClientState | None, pipeline: Pipeline, spec: AdapterSpec
) -> Generator[Fit, Fitted, tuple[Outcome, Tensors]]:
    """The method's coroutine, every fit through the stages and with the client's head; ends with the trained head."""
    payload, head = _open(order, client_state, pipeline, spec)
    kept = client_state.kept if client_state else {}
    programme = pipeline.method.client(payload, kept, order.client, spec, order.round)
    try:
        fit, trained = pipeline.request(next(programme)), head
    except StopIteration as stop:  # it asks for no training
        return stop.value, head
    while True:
        start = Start(fit.start.adapter.with_dense(head), fit.start.merged)
        fitted = yield replace(fit, start=start)
        trained = fitted.start.adapter.dense
        try:
            fit = pipeline.request(programme.send(fitted))
        except StopIteration as stop:
            return stop.value, trained


def _open(
    order: Order, client_state: ClientState | None, pipeline: Pipeline, spec: AdapterSpec
) -> tuple[Payload, Tensors]:
    """What an order brought: the method's part, and the head that this client starts from."""
    seen, facts = order.client.last_seen_round, pipeline.facts
    if seen is not None and facts.keeps_client_state(spec) and (client_state is None or client_state.round < seen):
        held = "nothing" if client_state is None else f"round {client_state.round}"
        raise StateLostError(f"the order builds on round {seen}, but this client holds {held}")
    payload = cast_floats(order.payload, torch.float32)
    method_part, _ = split_head(payload)
    mode = facts.head_mode(spec)
    if mode == "private":
        return method_part, client_state.head if client_state else {}
    return method_part, tensors_at(payload, "head") if mode == "shared" else {}


def _evaluate(
    orders: Sequence[Order], client_states: Mapping[str, ClientState], pipeline: Pipeline, trainer: Trainer
) -> list[Served]:
    served: dict[int, Served] = {}
    jobs: dict[int, ScoreJob] = {}
    for index, order in enumerate(orders):
        try:
            model = personal_model(order, client_states.get(order.client.id), pipeline, trainer.spec)
            jobs[index] = ScoreJob(order.client.id, model, order.part)
        except Exception as error:
            served[index] = Served(failure_of(order.client.id, order.round, error))
    rounds = [orders[index].round for index in jobs]
    for index, score in zip(jobs, score_each(trainer, list(jobs.values()), rounds), strict=True):
        order = orders[index]
        answer = score if isinstance(score, Failure) else Reply(order.client.id, order.round, score=score)
        served[index] = Served(answer)
    return [served[index] for index in range(len(orders))]


def personal_model(order: Order, client_state: ClientState | None, pipeline: Pipeline, spec: AdapterSpec) -> Start:
    """What a client makes of an order without training on it: the model that it uses, under its head.

    Raises:
        StateLostError: the order builds on what the client no longer holds.
    """
    payload, head = _open(order, client_state, pipeline, spec)
    start = pipeline.method.receive(payload, client_state.kept if client_state else {}, order.client, spec)
    return Start(start.adapter.with_dense(head), start.merged)
