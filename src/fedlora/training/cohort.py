# SPDX-License-Identifier: Apache-2.0
"""The cohort trainer: packed sequences, and the adapters of several clients on one frozen base in one pass.

What it gives is what the plain trainer gives, client by client, but for rounding: every client has its own
batches, mask, sides, optimiser and head. Clients' sequences lie in one pack, and every adapted map adds to
each token what its own client's factors make of it.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.nn import functional

from fedlora.core.adapter import Start, additions, on_device
from fedlora.core.lowrank import LowRank
from fedlora.core.metrics import Score
from fedlora.core.rounds import Failure, FitJob, Fitted, ScoreJob
from fedlora.core.seeds import stream_seed
from fedlora.training.batches import batches
from fedlora.training.maps import Addition, addition
from fedlora.training.model import at_least_single
from fedlora.training.packing import Pack, PackedEncoder, pack, packed_encoder
from fedlora.training.split import Indices
from fedlora.training.tokens import Tokens
from fedlora.training.trainer import PlainTrainer, Trained, rate_factor

_SCORE_TOKENS = 2048
"""Tokens of a pass that scores."""


class PaddedInstead(UserWarning):
    """A base whose sequences cannot be packed."""


@dataclass(slots=True, eq=False)
class _Member:
    """One client on its way through its fit."""

    job: FitJob
    run: Trained
    plan: list[Indices]
    label_permutation: Indices | None
    losses: float = 0.0
    seen: int = 0
    failure: Failure | None = None


class CohortTrainer(PlainTrainer):
    """Trains a block of clients together; see `PlainTrainer` for the arguments.

    Args:
        tokens_a_pass: clients share a pass while their batches hold about so many tokens together.
    """

    def __init__(self, *args: Any, tokens_a_pass: int = 1024, **named: Any) -> None:
        super().__init__(*args, **named)
        self._tokens_a_pass = tokens_a_pass
        self._encoder = packed_encoder(self._base.model, self._padding)
        if self._encoder is None:
            warnings.warn(
                f"Sequences of {self._base.name} cannot be packed: clients are trained one by one on padded batches.",
                PaddedInstead,
                stacklevel=2,
            )

    def fit(self, jobs: Sequence[FitJob]) -> list[Fitted | Failure]:
        """Train the jobs, as many in a pass as fit."""
        if self._encoder is None:
            return super().fit(jobs)
        answers: list[Fitted | Failure] = []
        for together in self._passes(jobs):
            answers += self._together(self._encoder, together)
        return answers

    def _passes(self, jobs: Sequence[FitJob]) -> Iterator[list[FitJob]]:
        """Jobs in order, cut where a pass is full; what needs a pass of its own has one."""
        waiting: list[FitJob] = []
        tokens = 0.0
        for job in jobs:
            examples = self._owned[job.client].train
            own = float(self._train.lengths[examples].mean()) * min(self._settings.batch_size, len(examples))
            if waiting and (self._alone(job) or self._alone(waiting[-1]) or tokens + own > self._tokens_a_pass):
                yield waiting
                waiting, tokens = [], 0.0
            waiting, tokens = [*waiting, job], tokens + own
        if waiting:
            yield waiting

    def _alone(self, job: FitJob) -> bool:
        """Dropout draws for one client; dense changes of weights belong to one client."""
        dense = self._spec.kind == "dense" or any(not isinstance(v, LowRank) for v in job.fit.start.merged.values())
        return dense or self._settings.dropout > 0.0

    def _together(self, encoder: PackedEncoder, jobs: Sequence[FitJob]) -> list[Fitted | Failure]:
        members = [self._member(job) for job in jobs]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(self._seed, "dropout", *_stream(jobs[0])))
            for step in range(max(len(member.plan) for member in members)):
                active = [own for own in members if step < len(own.plan) and own.failure is None]
                if active:
                    self._advance(encoder, active, step)
        return [member.failure or _fitted(member) for member in members]

    def _member(self, job: FitJob) -> _Member:
        fit, settings, own = job.fit, self._settings, self._owned[job.client]
        head = dict(fit.start.adapter.dense) or dict(self.head)
        run = Trained(fit, head, self._spec.head != "frozen", settings, self._device)
        duration = fit.duration or settings.duration
        plan = list(batches(own.train, settings.batch_size, duration, self._seed, _stream(job)))
        return _Member(job, run, plan, own.label_permutation)

    def _advance(self, encoder: PackedEncoder, members: Sequence[_Member], step: int) -> None:
        """One step of every member."""
        for own in members:
            within = 0.0 if own.job.fit.probe else step / len(own.plan)
            own.run.set_rate(rate_factor(self._settings, (own.job.round - 1 + within) / self._rounds))
        largest = max(len(own.plan[step]) for own in members)
        losses = self._pass.run(largest, partial(self._gradients, encoder, members, step))
        lost = [own for own, loss in zip(members, losses, strict=True) if not math.isfinite(loss)]
        for own, loss in zip(members, losses, strict=True):
            if own in lost:
                reason = f"the loss is {loss} at step {step + 1} of {len(own.plan)}"
                own.failure = Failure(own.job.client, own.job.round, reason, kind="diverged")
        if lost:  # gradients are sums over all tokens of a pass: make those of the others without it
            rest = [own for own in members if own not in lost]
            return self._advance(encoder, rest, step) if rest else None
        for own, loss in zip(members, losses, strict=True):
            own.run.step()
            count = len(own.plan[step])
            own.losses, own.seen = own.losses + loss * count, own.seen + count
        return None

    def _gradients(self, encoder: PackedEncoder, members: Sequence[_Member], step: int, size: int) -> list[float]:
        """The gradients of everyone's mean loss, at most `size` examples of each at a time."""
        for own in members:
            own.run.forget_gradient()
        totals = [0.0] * len(members)
        for first in range(0, max(len(own.plan[step]) for own in members), size):
            parts = [own.plan[step][first : first + size] for own in members]
            starts = [own.run.start for own in members]
            total: Tensor | None = None
            for number, logits in self._logits_of(encoder, self._train, starts, parts, self._settings.dropout):
                own = members[number]
                labels = self._labels(self._train.labels[parts[number]], own.label_permutation)
                loss = functional.cross_entropy(logits, labels, reduction="sum") / len(own.plan[step])
                totals[number] += float(loss.detach())
                total = loss if total is None else total + loss
            if total is not None and total.requires_grad:
                total.backward()  # type: ignore[no-untyped-call]
        return totals

    def _logits_of(
        self,
        encoder: PackedEncoder,
        tokens: Tokens,
        starts: Sequence[Start],
        parts: Sequence[Indices],
        dropout: float,
    ) -> Iterator[tuple[int, Tensor]]:
        """The number of each member that has examples, and its class scores in their order."""
        whose = [number for number, own in enumerate(parts) if len(own)]
        packed = pack(tokens, [parts[number] for number in whose], self._device)
        present = [starts[number] for number in whose]
        with self._attached(present, packed, dropout) as dense:
            hidden = encoder.hidden(packed, dense)
        for number, start, rows in zip(whose, present, packed.rows, strict=True):
            yield number, at_least_single(encoder.logits(hidden[rows], {**dense, **self._base.head_values(start)}))

    def _labels(self, labels: Indices, label_permutation: Indices | None) -> Tensor:
        return torch.from_numpy(labels if label_permutation is None else label_permutation[labels]).to(self._device)

    @contextmanager
    def _attached(self, starts: Sequence[Start], packed: Pack, dropout: float) -> Iterator[dict[str, Tensor]]:
        """The base with everyone's adapters on; yields the parameters that a dense adapter replaces."""
        spec = self._spec
        if spec.kind == "dense":
            yield self._base.moved(starts[0], spec)
            return
        parts = [additions(start, spec) for start in starts]
        try:
            for module, attached in self._base.maps.items():
                own = [part[module] for part in parts]
                alone = addition(own[0], spec.scale, dropout)
                attached.attach(alone if len(own) == 1 else _together(own, spec.scale, packed.member))
            yield {}
        finally:
            self._base.detach()

    def _score(self, job: ScoreJob) -> Score:
        if self._encoder is None:
            return super()._score(job)
        tokens, examples = self._part(job)
        label_permutation = self._owned[job.client].label_permutation if job.client is not None else None
        order = examples[numpy.argsort(tokens.lengths[examples], kind="stable")]
        adapter = job.start.adapter
        start = on_device(replace(job.start, adapter=adapter.with_dense(adapter.dense or self.head)), self._device)
        correct, loss = 0, 0.0
        with torch.inference_mode():
            for batch in _cut(order, tokens.lengths[order], _SCORE_TOKENS):
                work = partial(self._scores, self._encoder, start, batch, tokens)
                logits = self._scoring.run(len(batch), work)
                labels = self._labels(tokens.labels[batch], label_permutation)
                loss += float(functional.cross_entropy(logits, labels, reduction="sum"))
                correct += int((logits.argmax(dim=1) == labels).sum())
        return Score(len(order), {"correct": correct, "loss": loss})

    def _scores(self, encoder: PackedEncoder, start: Start, batch: Indices, tokens: Tokens, size: int) -> Tensor:
        pieces = [batch[first : first + size] for first in range(0, len(batch), size)]
        return torch.cat(
            [own for piece in pieces for _, own in self._logits_of(encoder, tokens, [start], [piece], 0.0)]
        )


def _together(parts: Sequence[Sequence[LowRank | Tensor]], scale: float, member: Tensor) -> Addition:
    """What several clients' pairs add to one map, each to its own tokens.

    All slots of all clients lie side by side; a token's products with slots of others are set to zero, not
    multiplied by it: what is not finite in one client must not reach another.

    Args:
        parts: of each client, its pairs.
        scale: s.
        member: of each token, whose it is.
    """
    pairs = [(number, part) for number, own in enumerate(parts) for part in own if isinstance(part, LowRank)]
    A = torch.cat([pair.A for _, pair in pairs])
    B = torch.cat([pair.B for _, pair in pairs], dim=1)
    slots = torch.cat([torch.full((pair.rank,), number) for number, pair in pairs]).to(member.device)
    others = member[:, None] != slots[None]

    def added(x: Tensor) -> Tensor:
        return scale * ((x.to(A.dtype) @ A.T).masked_fill(others, 0.0) @ B.T)

    return added


def _cut(order: Indices, lengths: Indices, most: int) -> Iterator[Indices]:
    """Examples in order, cut so that each piece has at most so many tokens, or one example."""
    first, tokens = 0, 0
    for place, length in enumerate(lengths.tolist()):
        if place > first and tokens + length > most:
            yield order[first:place]
            first, tokens = place, 0
        tokens += length
    if first < len(order):
        yield order[first:]


def _stream(job: FitJob) -> tuple[str, int, str]:
    return ("probe batches" if job.fit.probe else "batches", job.round, job.client)


def _fitted(member: _Member) -> Fitted:
    steps = len(member.plan)
    return Fitted(member.run.result(), steps, member.losses / max(member.seen, 1), member.run.mean_gradient(steps))
