# SPDX-License-Identifier: Apache-2.0
"""One client's fit under way: its tensors, its optimiser, its batches and how far it has come."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from fedlora.core.adapter import SIDES, Adapter, Start, Tensors, on_device
from fedlora.core.kinds import Side
from fedlora.core.penalties import penalty
from fedlora.core.rounds import Failure, FitJob, Fitted
from fedlora.training.data.split import Indices, Owned
from fedlora.training.leaves import Leaves
from fedlora.training.settings import TrainSettings

Part = Literal["input", "output", "dense"]
"""What has a learning rate of its own: the two sides and the dense parts."""


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
        fit, adapter = job.fit, job.fit.start.adapter
        ratio = 1.0 if adapter.kind == "dense" else settings.lr_b_ratio or 1.0  # a dense one's one side is no B
        trained: dict[Part, tuple[Tensors, float]] = {
            "input": (adapter.input if "input" in fit.sides else {}, settings.lr),
            "output": (adapter.output if "output" in fit.sides else {}, settings.lr * ratio),
            "dense": (head if head_trains else {}, settings.lr),
        }
        self._leaves = {part: Leaves(tensors, device) for part, (tensors, _) in trained.items() if tensors}
        whole = on_device(Start(adapter.with_dense(head), fit.start.merged), device)
        now = {part: leaves.named for part, leaves in self._leaves.items()}
        self.start = replace(
            whole,
            adapter=Adapter(
                now.get("input", whole.adapter.input),
                now.get("output", whole.adapter.output),
                now.get("dense", whole.adapter.dense),
                adapter.kind,
            ),
        )
        for side, leaves in self._sides() if fit.mask else ():
            leaves.hold({m: mask[:, None] if side == "input" else mask for m, mask in (fit.mask or {}).items()})
        groups = [
            {"params": [leaves.vector], "lr": trained[part][1], "initial": trained[part][1]}
            for part, leaves in self._leaves.items()
        ]
        self._optimizer = _optimizer(settings, groups, device) if groups else None
        self._gradients: dict[Side, Tensor] = {}
        if fit.measure == "gradient":
            self._gradients = {side: torch.zeros_like(leaves.vector) for side, leaves in self._sides()}

    def _sides(self) -> list[tuple[Side, Leaves]]:
        """The sides that train."""
        return [(side, self._leaves[side]) for side in SIDES if side in self._leaves]

    def is_active(self, step: int) -> bool:
        """Whether there is such a step for this client: it has the batch, and its loss has stayed finite."""
        return step < len(self.plan) and self.failure is None

    def set_rate(self, factor: float) -> None:
        """Set every group's rate to a share of its initial one."""
        for group in self._optimizer.param_groups if self._optimizer else ():
            group["lr"] = group["initial"] * factor

    def forget_gradient(self) -> None:
        """Start a gradient afresh."""
        for leaves in self._leaves.values():
            leaves.forget_gradient()

    def diverged(self, step: int, loss: float) -> None:
        """End the fit at a step whose loss is not finite."""
        reason = f"the loss is {loss} at step {step + 1} of {len(self.plan)}"
        self.failure = Failure(self.job.client, self.job.round, reason, "diverged")

    def step(self, loss: float, predictions: int) -> None:
        """One step of the optimiser, in which slots outside the mask do not move at all.

        Their gradient is zeroed before it enters the moments, and whatever else would move them (weight
        decay) is undone.

        Args:
            loss: the mean loss of its batch.
            predictions: over how many predictions that is the mean.
        """
        self._losses, self._seen = self._losses + loss * predictions, self._seen + predictions
        if self._optimizer is None:
            return
        for side, total in self._gradients.items():
            total.add_(self._leaves[side].gradient())
        extra = penalty(self.job.fit.penalties, self.start.adapter, self.job.fit.start.adapter)
        if extra.requires_grad:
            extra.backward()  # type: ignore[no-untyped-call]
        for leaves in self._leaves.values():
            leaves.ready_gradient()
        self._optimizer.step()
        for leaves in self._leaves.values():
            leaves.restore_held()

    def answer(self) -> Fitted | Failure:
        """What became of the fit, on the CPU."""
        if self.failure is not None:
            return self.failure
        return Fitted(self._result(), len(self.plan), self._losses / max(self._seen, 1), self._mean_gradient())

    def _mean_gradient(self) -> dict[Side, dict[str, Tensor]]:
        """The loss's gradient averaged over the steps; empty where it was not asked for."""
        steps = max(len(self.plan), 1)
        return {side: self._leaves[side].cut(total / steps) for side, total in self._gradients.items()}

    def _result(self) -> Start:
        """The tensors as they are now; what did not train, and the merged update, are those of the request."""
        now = {part: leaves.cut(leaves.vector) for part, leaves in self._leaves.items()}
        asked = self.job.fit.start
        adapter = asked.adapter
        sides = now.get("input", adapter.input), now.get("output", adapter.output)
        return replace(asked, adapter=Adapter(*sides, now.get("dense", {}), adapter.kind))


def _optimizer(settings: TrainSettings, groups: list[dict[str, Any]], device: str) -> torch.optim.Optimizer:
    """A fresh optimiser; fused, a step is one operation for each group."""
    fused = torch.device(device).type in ("cpu", "cuda")
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.SGD
    return kind(groups, weight_decay=settings.weight_decay, fused=fused)
