# SPDX-License-Identifier: Apache-2.0
"""One client's fit under way: its tensors as leaves, its optimiser, its batches and how far it has come."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fedlora.core.adapter import Adapter, Start, Tensors, on_device
from fedlora.core.kinds import Side
from fedlora.core.penalties import penalty
from fedlora.core.rounds import Failure, Fit, FitJob, Fitted
from fedlora.training.settings import TrainSettings
from fedlora.training.split import Indices, Owned


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


class ClientFit:
    """The tensors of one fit as leaves, with a fresh optimiser over those that train.

    Args:
        job: the client, the round and what is asked.
        client: the client's examples.
        plan: its batches, in order.
        head: the dense parts that it starts from.
        head_trains: whether those train.
        settings: how clients train.
        device: where the base is.
    """

    def __init__(
        self,
        job: FitJob,
        client: Owned,
        plan: Sequence[Indices],
        *,
        head: Tensors,
        head_trains: bool,
        settings: TrainSettings,
        device: str,
    ) -> None:
        self.job, self.client, self.plan = job, client, plan
        self.failure: Failure | None = None
        self._losses, self._seen = 0.0, 0
        fit = job.fit
        adapter = fit.start.adapter
        A = {m: _leaf(t, "input" in fit.sides, device) for m, t in adapter.input.items()}
        B = {m: _leaf(t, "output" in fit.sides, device) for m, t in adapter.output.items()}
        dense = {name: _leaf(part, head_trains, device) for name, part in head.items()}
        merged = on_device(Start(Adapter({}, {}), fit.start.merged), device).merged
        self.start = Start(Adapter(A, B, dense, adapter.kind), merged)
        self._head_trains = head_trains
        dense_kind = adapter.kind == "dense"  # it has one side, which is no B
        ratio = 1.0 if dense_kind else settings.lr_b_ratio or 1.0
        groups = [
            (A.values() if "input" in fit.sides else (), settings.lr),
            (B.values() if "output" in fit.sides else (), settings.lr * ratio),
            (dense.values() if head_trains else (), settings.lr),
        ]
        parameters = [{"params": list(some), "lr": rate, "initial": rate} for some, rate in groups if list(some)]
        kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.SGD
        self._optimizer = kind(parameters, weight_decay=settings.weight_decay) if parameters else None
        self._held = list(_held(fit, A, B))
        self._gradients: dict[tuple[Side, str], Tensor] = {}
        if fit.measure == "gradient":
            sides: list[tuple[Side, Tensors]] = [("input", A), ("output", B)]
            trained = ((side, m, t) for side, tensors in sides if side in fit.sides for m, t in tensors.items())
            self._gradients = {(side, module): torch.zeros_like(tensor) for side, module, tensor in trained}

    def is_active(self, step: int) -> bool:
        """Whether there is such a step for this client: it has the batch, and its loss has stayed finite."""
        return step < len(self.plan) and self.failure is None

    def set_rate(self, factor: float) -> None:
        """Set every group's rate to a share of its initial one."""
        for group in self._optimizer.param_groups if self._optimizer else ():
            group["lr"] = group["initial"] * factor

    def forget_gradient(self) -> None:
        """Start a gradient afresh."""
        if self._optimizer is not None:
            self._optimizer.zero_grad()

    def diverged(self, step: int, loss: float) -> None:
        """End the fit at a step whose loss is not finite."""
        reason = f"the loss is {loss} at step {step + 1} of {len(self.plan)}"
        self.failure = Failure(self.job.client, self.job.round, reason, "diverged")

    def step(self, step: int, loss: float) -> None:
        """One step of the optimiser, in which slots outside the mask do not move at all.

        Their gradient is zeroed before it enters the moments, and whatever else would move them (weight
        decay) is undone.

        Args:
            step: its number, from 0.
            loss: the mean loss of its batch.
        """
        count = len(self.plan[step])
        self._losses, self._seen = self._losses + loss * count, self._seen + count
        if self._optimizer is None:
            return
        for (side, module), total in self._gradients.items():
            gradient = self.start.adapter.side(side)[module].grad
            if gradient is not None:
                total.add_(gradient)
        extra = penalty(self.job.fit.penalties, self.start.adapter, self.job.fit.start.adapter)
        if extra.requires_grad:
            extra.backward()  # type: ignore[no-untyped-call]
        for parameter, moves, _ in self._held:
            if parameter.grad is not None:
                parameter.grad *= moves
        self._optimizer.step()
        with torch.no_grad():
            for parameter, moves, before in self._held:
                parameter.copy_(torch.where(moves, parameter, before))

    def answer(self) -> Fitted | Failure:
        """What became of the fit, on the CPU."""
        if self.failure is not None:
            return self.failure
        return Fitted(self._result(), len(self.plan), self._losses / max(self._seen, 1), self._mean_gradient())

    def _mean_gradient(self) -> dict[Side, dict[str, Tensor]]:
        """The loss's gradient averaged over the steps; empty where it was not asked for."""
        means: dict[Side, dict[str, Tensor]] = {}
        for (side, module), total in self._gradients.items():
            means.setdefault(side, {})[module] = total.detach().cpu() / max(len(self.plan), 1)
        return means

    def _result(self) -> Start:
        """The tensors as they are now; the merged update is still where the request has it."""
        now, asked = self.start.adapter, self.job.fit.start
        dense = _on_cpu(now.dense) if self._head_trains else {}
        return replace(asked, adapter=Adapter(_on_cpu(now.input), _on_cpu(now.output), dense, now.kind))


def _held(fit: Fit, A: Tensors, B: Tensors) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(parameter, mask that meets its shape, value at the start) of every side with a mask."""
    for module, mask in (fit.mask or {}).items():
        if "input" in fit.sides:
            yield A[module], mask.to(A[module].device)[:, None], A[module].detach().clone()
        if "output" in fit.sides:
            yield B[module], mask.to(B[module].device)[None, :], B[module].detach().clone()


def _leaf(tensor: Tensor, trains: bool, device: str) -> Tensor:
    return tensor.detach().to(device, copy=True).requires_grad_(trains)


def _on_cpu(tensors: Tensors) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in tensors.items()}
