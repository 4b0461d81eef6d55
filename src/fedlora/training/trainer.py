# SPDX-License-Identifier: Apache-2.0
"""The plain trainer: one client after the other, padded batches, stock optimisers.

It is the oracle for any faster one: clear before quick.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import numpy
import torch
from torch import Tensor
from torch.nn import functional

from fedlora.core.adapter import Adapter, AdapterSpec, Start, Tensors, on_device
from fedlora.core.kinds import Side
from fedlora.core.metrics import Score, Scoring
from fedlora.core.penalties import penalty
from fedlora.core.rounds import Duration, Failure, Fit, FitJob, Fitted, ScoreJob
from fedlora.core.seeds import stream_seed
from fedlora.training.batches import batches, padded
from fedlora.training.memory import Portions
from fedlora.training.model import Base
from fedlora.training.split import Indices, Owned
from fedlora.training.tasks.classification import Classification
from fedlora.training.tokens import Tokens

_SCORE_BATCH = 64


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How a client trains."""

    duration: Duration = field(default_factory=lambda: Duration(epochs=1))
    batch_size: int = 16
    """Examples an optimiser step."""
    micro_batch: int | None = None
    """Examples a forward pass; None: the whole batch. Changes memory, not results beyond rounding."""
    lr: float = 5e-4
    lr_b_ratio: float = 1.0
    """The rate of B over the rate of A."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Over the whole run, by the global round."""
    warmup: float = 0.0
    """Share of the run in which the rate rises from zero."""
    weight_decay: float = 0.0
    dropout: float = 0.0
    """On the adapters' inputs; the base itself always runs without."""


def rate_factor(settings: TrainSettings, progress: float) -> float:
    """The learning rate as a share of `lr`, at a progress of the run in [0, 1]."""
    if settings.warmup and progress < settings.warmup:
        return progress / settings.warmup
    rest = (progress - settings.warmup) / (1.0 - settings.warmup)
    if settings.schedule == "linear":
        return 1.0 - rest
    if settings.schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * rest))
    return 1.0


class PlainTrainer:
    """Trains and scores jobs one by one on a single resident base.

    Args:
        base: the resident model.
        spec: the adapter.
        settings: how clients train.
        train: all training examples.
        test: the server's test set.
        owned: which of them are whose.
        seed: of the run.
        rounds: of the run, for the schedule.
        device: where the base is.
    """

    def __init__(
        self,
        base: Base,
        spec: AdapterSpec,
        settings: TrainSettings,
        *,
        train: Tokens,
        test: Tokens,
        owned: Mapping[str, Owned],
        seed: int,
        rounds: int,
        device: str = "cpu",
    ) -> None:
        self._base = base
        self._spec = spec
        self._settings = settings
        self._train, self._test = train, test
        self._owned = owned
        self._seed, self._rounds = seed, rounds
        self._device = device
        self._pass = Portions(settings.micro_batch, "train.micro_batch")
        self._scoring = Portions(None, "the batch of a score")
        self._padding = base.tokenizer.pad_token_id or 0

    @property
    def spec(self) -> AdapterSpec:
        """The adapter that it trains."""
        return self._spec

    @property
    def scoring(self) -> Scoring:
        """The metrics of classification."""
        return Classification(self._base.labels).scoring

    @property
    def head(self) -> Tensors:
        """The base's dense parts, or those of the adapter that the run goes on from."""
        start = self._spec.start
        given = start.dense if start is not None else {}
        return {name: given.get(name, own).float() for name, own in self._base.head.items()}

    def fit(self, jobs: Sequence[FitJob]) -> list[Fitted | Failure]:
        """Train each job on its client's own examples."""
        return [self._fit(job) for job in jobs]

    def score(self, jobs: Sequence[ScoreJob]) -> list[Score | Failure]:
        """Score each job's model."""
        return [self._score(job) for job in jobs]

    def _fit(self, job: FitJob) -> Fitted | Failure:
        fit, settings = job.fit, self._settings
        head = dict(fit.start.adapter.dense) or dict(self.head)
        run = Trained(fit, head, self._spec.head != "frozen", settings, self._device)
        examples, permutation = self._owned[job.client].train, self._owned[job.client].label_permutation
        stream = ("probe batches" if fit.probe else "batches", job.round, job.client)
        duration = fit.duration or settings.duration
        plan = list(batches(examples, settings.batch_size, duration, self._seed, stream))
        losses, seen = 0.0, 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(self._seed, "dropout", *stream))
            for step, batch in enumerate(plan):
                within = 0.0 if fit.probe else step / len(plan)
                run.set_rate(rate_factor(settings, (job.round - 1 + within) / self._rounds))
                loss = self._step(run, batch, permutation)
                if not math.isfinite(loss):
                    reason = f"the loss is {loss} at step {step + 1} of {len(plan)}"
                    return Failure(job.client, job.round, reason, kind="diverged")
                losses, seen = losses + loss * len(batch), seen + len(batch)
        return Fitted(run.result(), len(plan), losses / max(seen, 1), run.mean_gradient(len(plan)))

    def _step(self, run: "Trained", batch: Indices, permutation: Indices | None) -> float:
        """One optimiser step; returns the batch's mean loss."""
        loss = self._pass.run(len(batch), lambda size: self._gradient(run, batch, permutation, size))
        run.step()
        return loss

    def _gradient(self, run: "Trained", batch: Indices, permutation: Indices | None, size: int) -> float:
        """The gradient of the batch's mean loss, `size` examples at a time."""
        run.forget_gradient()
        total = 0.0
        for first in range(0, len(batch), size):
            ids, mask, labels = self._padded(self._train, batch[first : first + size], permutation)
            logits = self._base.logits(ids, mask, run.start, self._spec, self._settings.dropout)
            loss = functional.cross_entropy(logits, labels, reduction="sum") / len(batch)
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total

    def _score(self, job: ScoreJob) -> Score:
        tokens, examples = self._part(job)
        permutation = self._owned[job.client].label_permutation if job.client is not None else None
        order = examples[numpy.argsort(tokens.lengths[examples], kind="stable")]
        adapter = job.start.adapter
        model = replace(job.start, adapter=adapter.with_dense(adapter.dense or self.head))
        start = on_device(model, self._device)
        correct, loss = 0, 0.0
        with torch.inference_mode():
            for first in range(0, len(order), _SCORE_BATCH):
                batch = order[first : first + _SCORE_BATCH]
                logits, labels = self._scoring.run(len(batch), partial(self._logits, tokens, batch, permutation, start))
                loss += float(functional.cross_entropy(logits, labels, reduction="sum"))
                correct += int((logits.argmax(dim=1) == labels).sum())
        return Score(len(order), {"correct": correct, "loss": loss})

    def _logits(
        self,
        tokens: Tokens,
        batch: Indices,
        permutation: Indices | None,
        start: Start,
        size: int,
    ) -> tuple[Tensor, Tensor]:
        """Class scores and labels of a batch, `size` examples at a time."""
        parts, labels = [], []
        for first in range(0, len(batch), size):
            ids, mask, own = self._padded(tokens, batch[first : first + size], permutation)
            parts.append(self._base.logits(ids, mask, start, self._spec))
            labels.append(own)
        return torch.cat(parts), torch.cat(labels)

    def _part(self, job: ScoreJob) -> tuple[Tokens, Indices]:
        if job.client is None and job.part == "test":
            return self._test, numpy.arange(len(self._test))
        if job.client is None:
            return self._train, numpy.concatenate([own.validation for own in self._owned.values()])
        own = self._owned[job.client]
        return (self._train, own.validation) if job.part == "validation" else (self._test, own.test)

    def _padded(self, tokens: Tokens, examples: Indices, permutation: Indices | None) -> tuple[Tensor, Tensor, Tensor]:
        """Token ids and mask (examples, longest), and labels as the client calls them."""
        ids, mask, labels = padded(tokens, examples, self._padding, self._device)
        return (
            ids,
            mask,
            labels if permutation is None else torch.from_numpy(permutation).to(self._device)[labels],
        )


class Trained:
    """The tensors of one fit as leaves, with a fresh optimiser over those that train."""

    def __init__(self, fit: Fit, head: Tensors, head_trains: bool, settings: TrainSettings, device: str) -> None:
        adapter, self._fit = fit.start.adapter, fit
        A = {m: _leaf(t, "input" in fit.sides, device) for m, t in adapter.input.items()}
        B = {m: _leaf(t, "output" in fit.sides, device) for m, t in adapter.output.items()}
        dense = {name: _leaf(part, head_trains, device) for name, part in head.items()}
        self.start = replace(on_device(fit.start, device), adapter=Adapter(A, B, dense, adapter.kind))
        self._head_trains = head_trains
        dense_kind = adapter.kind == "dense"  # it has one side, which is no B
        groups = [
            (A.values() if "input" in fit.sides else (), settings.lr),
            (B.values() if "output" in fit.sides else (), settings.lr * (1.0 if dense_kind else settings.lr_b_ratio)),
            (dense.values() if head_trains else (), settings.lr),
        ]
        parameters = [{"params": list(own), "lr": rate, "initial": rate} for own, rate in groups if list(own)]
        kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.SGD
        self._optimizer = kind(parameters, weight_decay=settings.weight_decay) if parameters else None
        self._held = list(_held(fit, A, B))
        self._measured: dict[tuple[Side, str], Tensor] = {}
        if fit.measure == "gradient":
            sides: list[tuple[Side, Tensors]] = [("input", A), ("output", B)]
            own = ((side, m, t) for side, tensors in sides if side in fit.sides for m, t in tensors.items())
            self._measured = {(side, module): torch.zeros_like(tensor) for side, module, tensor in own}

    def set_rate(self, factor: float) -> None:
        """Set every group's rate to a share of its own."""
        for group in self._optimizer.param_groups if self._optimizer else ():
            group["lr"] = group["initial"] * factor

    def forget_gradient(self) -> None:
        """Start a gradient afresh."""
        if self._optimizer is not None:
            self._optimizer.zero_grad()

    def step(self) -> None:
        """One step of the optimiser, in which slots outside the mask do not move at all.

        Their gradient is zeroed before it enters the moments, and whatever else would move them (weight
        decay) is undone.
        """
        if self._optimizer is None:
            return
        for (side, module), total in self._measured.items():
            gradient = self.start.adapter.side(side)[module].grad
            if gradient is not None:
                total.add_(gradient)
        extra = penalty(self._fit.penalties, self.start.adapter, self._fit.start.adapter)
        if extra.requires_grad:
            extra.backward()  # type: ignore[no-untyped-call]
        for parameter, moves, _ in self._held:
            if parameter.grad is not None:
                parameter.grad *= moves
        self._optimizer.step()
        with torch.no_grad():
            for parameter, moves, before in self._held:
                parameter.copy_(torch.where(moves, parameter, before))

    def mean_gradient(self, steps: int) -> dict[Side, dict[str, Tensor]]:
        """The loss's own gradient averaged over the steps, on the CPU; empty where it was not asked for."""
        means: dict[Side, dict[str, Tensor]] = {}
        for (side, module), total in self._measured.items():
            means.setdefault(side, {})[module] = total.detach().cpu() / max(steps, 1)
        return means

    def result(self) -> Start:
        """The tensors as they are now, on the CPU."""
        with torch.no_grad():
            own = on_device(self.start, "cpu").adapter
            sides = [{m: t.detach() for m, t in part.items()} for part in (own.input, own.output, own.dense)]
            dense = sides[2] if self._head_trains else {}
            return replace(self._fit.start, adapter=Adapter(sides[0], sides[1], dense, own.kind))


def _held(fit: Fit, A: Tensors, B: Tensors) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(parameter, mask that meets its shape, value at the start) of every side with a mask."""
    for module, mask in (fit.mask or {}).items():
        if "input" in fit.sides:
            yield A[module], mask.to(A[module].device)[:, None], A[module].detach().clone()
        if "output" in fit.sides:
            yield B[module], mask.to(B[module].device)[None, :], B[module].detach().clone()


def _leaf(tensor: Tensor, trains: bool, device: str) -> Tensor:
    return tensor.detach().to(device, copy=True).requires_grad_(trains)
