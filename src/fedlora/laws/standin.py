# SPDX-License-Identifier: Apache-2.0
"""A stand-in trainer: true gradient steps on a small linear problem, without any transformer.

Each client fits, in every module, Y = X (W0 + s (merged update + B A))^T to targets of its own, and pulls a small
dense part towards a target of its own. The gradients are exact, so that a wrong start, side, mask, scale
or merged update gives other numbers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedlora.core.adapter import SIDES, AdapterSpec, Start, Tensors, additions
from fedlora.core.kinds import Side, slot_axis
from fedlora.core.lowrank import LowRank, delta
from fedlora.core.metrics import Metric, Score, Scoring, mean_of
from fedlora.core.penalties import penalty
from fedlora.core.rounds import Failure, Fit, FitJob, Fitted, ScoreJob
from fedlora.core.seeds import torch_stream

_SAMPLES = 5
_STEPS_PER_EPOCH = 2
_SERVER = ""
_METRICS = (
    Metric("close", higher_is_better=True, value=mean_of("close"), format="percent"),
    Metric("loss", higher_is_better=False, value=mean_of("loss")),
)
SCORING = Scoring(_METRICS, {"close": (0.0, 1.0), "loss": (0.0, math.inf)})
"""The share of samples that the model comes close to, and the loss."""


@dataclass(frozen=True)
class StandIn:
    """The problem and its trainer.

    Args:
        spec: the adapter.
        seed: draws base weights and clients' data.
        rate: the step size.
        same_data: every client has the same data.
    """

    spec: AdapterSpec
    seed: int
    rate: float = 0.01
    same_data: bool = False

    @property
    def head(self) -> Tensors:
        """One dense part of three numbers."""
        return {"head": torch.randn(3, generator=torch_stream(self.seed, "head"))}

    @property
    def scoring(self) -> Scoring:
        """The metrics of the small problem."""
        return SCORING

    def fit(self, jobs: Sequence[FitJob]) -> list[Fitted | Failure]:
        """Plain gradient steps, one job after the other."""
        return [self._fit(job.client, job.fit) for job in jobs]

    def score(self, jobs: Sequence[ScoreJob]) -> list[Score | Failure]:
        """Loss sums; a model is close to a sample in a module where the residual is below one."""
        return [self._score(job.client or _SERVER, job.start) for job in jobs]

    def _data(self, client: str) -> tuple[Mapping[str, tuple[Tensor, Tensor, Tensor]], Tensor]:
        """Per module (W0, X, Y), and the target of the dense part."""
        owner = _SERVER if self.same_data else client
        modules = {}
        for module, shape in self.spec.shapes.items():
            d_out, d_in = shape
            base = torch.randn(d_out, d_in, generator=torch_stream(self.seed, "base", module))
            stream = torch_stream(self.seed, "data", module, owner)
            X, Y = torch.randn(_SAMPLES, d_in, generator=stream), torch.randn(_SAMPLES, d_out, generator=stream)
            modules[module] = (base, X, Y)
        return modules, torch.randn(3, generator=torch_stream(self.seed, "target", owner))

    def _residuals(self, start: Start, client: str) -> list[Tensor]:
        """X (W0 + s (merged update + B A))^T - Y of every module."""
        modules, _ = self._data(client)
        residuals = []
        for module, parts in additions(start, self.spec).items():
            base, X, Y = modules[module]
            total = sum(delta(part) if isinstance(part, LowRank) else part for part in parts)
            residuals.append(X @ (base + self.spec.scale * total).T - Y)
        return residuals

    def _fit(self, client: str, fit: Fit) -> Fitted:
        _, target = self._data(client)
        steps = _STEPS_PER_EPOCH
        if fit.duration is not None:
            steps = fit.duration.steps or _STEPS_PER_EPOCH * (fit.duration.epochs or 1)
        start, losses, gradients = fit.start, [], []
        dense = dict(start.adapter.dense) or dict(self.head)
        for _ in range(steps):
            start, loss, gradient = self._step(client, start, fit)
            gradients.append(gradient)
            if self.spec.head != "frozen":
                dense = {name: part - self.rate * (part - target) for name, part in dense.items()}
            losses.append(loss)
        kept = {} if self.spec.head == "frozen" else dense
        trained = replace(start, adapter=start.adapter.with_dense(kept))
        mean = _mean(gradients) if fit.measure == "gradient" else {}
        return Fitted(trained, steps, sum(losses) / max(len(losses), 1), mean)

    def _step(self, client: str, start: Start, fit: Fit) -> tuple[Start, float, dict[Side, dict[str, Tensor]]]:
        """One gradient step of the sides that train; the gradient told is that of the loss, without penalties."""
        adapter = start.adapter
        leaves = {
            (side, module): tensor.clone().requires_grad_()
            for side in SIDES
            if side in fit.sides
            for module, tensor in adapter.side(side).items()
        }
        for side in SIDES:
            tensors = {m: leaves.get((side, m), tensor) for m, tensor in adapter.side(side).items()}
            adapter = adapter.with_side(side, tensors)
        residuals = self._residuals(replace(start, adapter=adapter), client)
        loss = torch.stack([residual.square().sum() for residual in residuals]).sum() / (2 * _SAMPLES)
        extra = penalty(fit.penalties, adapter, fit.start.adapter)
        places = list(leaves.values())
        slopes = torch.autograd.grad(loss, places, retain_graph=True) if places else ()
        pulls: tuple[Tensor | None, ...] = (None,) * len(slopes)
        if extra.requires_grad:
            pulls = torch.autograd.grad(extra, places, allow_unused=True)
        gradient: dict[Side, dict[str, Tensor]] = {side: {} for side in SIDES if side in fit.sides}
        for ((side, module), leaf), plain, pull in zip(leaves.items(), slopes, pulls, strict=True):
            gradient[side][module] = plain
            slope = plain if pull is None else plain + pull
            moves = torch.ones(()) if fit.mask is None else fit.mask[module].float()
            along = moves[:, None] if moves.ndim and slot_axis(adapter.kind, side) == 0 else moves
            stepped = (leaf - self.rate * along * slope).detach()
            adapter = adapter.with_side(side, {**adapter.side(side), module: stepped})
        return replace(start, adapter=adapter), float(loss.detach()), gradient

    def _score(self, client: str, start: Start) -> Score:
        residuals = self._residuals(start, client)
        loss = sum(float(residual.square().sum()) for residual in residuals)
        close = sum(int((residual.square().mean(dim=1) < 1).sum()) for residual in residuals)
        return Score(_SAMPLES * len(residuals), {"close": close, "loss": loss})


def _mean(gradients: Sequence[Mapping[Side, Tensors]]) -> dict[Side, dict[str, Tensor]]:
    """The mean of the steps' gradients."""
    return {
        side: {module: torch.stack([gradient[side][module] for gradient in gradients]).mean(dim=0) for module in first}
        for side, first in (gradients[0] if gradients else {}).items()
    }
