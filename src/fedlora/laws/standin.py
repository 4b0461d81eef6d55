# SPDX-License-Identifier: Apache-2.0
"""A stand-in trainer: true gradient steps on a small linear problem, without any transformer.

Each client fits, in every module, Y = X (W0 + s (fold + B A))^T to targets of its own, and pulls a small
dense part towards a target of its own. The gradients are exact, so that a wrong start, side, mask, scale
or fold gives other numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedlora.core.adapter import Adapter, AdapterSpec, Start, Tensors
from fedlora.core.lowrank import LowRank, delta
from fedlora.core.rounds import Failure, Fit, FitJob, Fitted, Score, ScoreJob
from fedlora.core.seeds import torch_stream

_SAMPLES = 5
_STEPS_PER_EPOCH = 2
_SERVER = ""


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

    def fit(self, jobs: Sequence[FitJob]) -> list[Fitted | Failure]:
        """Plain gradient steps, one job after the other."""
        return [self._fit(job.client, job.fit) for job in jobs]

    def score(self, jobs: Sequence[ScoreJob]) -> list[Score | Failure]:
        """Loss sums; a sample counts as correct in a module where its residual is below one."""
        return [self._score(job.client or _SERVER, job.start) for job in jobs]

    def _data(self, client: str) -> tuple[Mapping[str, tuple[Tensor, Tensor, Tensor]], Tensor]:
        """Per module (W0, X, Y), and the target of the dense part."""
        owner = _SERVER if self.same_data else client
        modules = {}
        for module, (d_out, d_in) in self.spec.shapes.items():
            base = torch.randn(d_out, d_in, generator=torch_stream(self.seed, "base", module))
            own = torch_stream(self.seed, "data", module, owner)
            X, Y = torch.randn(_SAMPLES, d_in, generator=own), torch.randn(_SAMPLES, d_out, generator=own)
            modules[module] = (base, X, Y)
        return modules, torch.randn(3, generator=torch_stream(self.seed, "target", owner))

    def _residual(self, start: Start, module: str, base: Tensor, X: Tensor, Y: Tensor) -> Tensor:
        weight = delta(start.adapter.pair(module))
        folded = start.fold.get(module)
        if folded is not None:
            weight = weight + (delta(folded) if isinstance(folded, LowRank) else folded)
        return X @ (base + self.spec.scale * weight).T - Y

    def _fit(self, client: str, fit: Fit) -> Fitted:
        modules, target = self._data(client)
        amount = fit.amount
        steps = _STEPS_PER_EPOCH
        if amount is not None:
            steps = amount.steps or _STEPS_PER_EPOCH * (amount.epochs or 1)
        start, losses = fit.start, []
        dense = dict(start.adapter.dense) or dict(self.head)
        for _ in range(steps):
            inputs, outputs, loss = dict(start.adapter.input), dict(start.adapter.output), 0.0
            for module, data in modules.items():
                residual = self._residual(start, module, *data)
                loss += float(residual.square().sum()) / (2 * _SAMPLES)
                slope = self.spec.scale / _SAMPLES * residual.T @ data[1]  # (d_out, d_in)
                A, B = inputs[module], outputs[module]
                moves = torch.ones(A.shape[0]) if fit.mask is None else fit.mask[module].float()
                if "input" in fit.sides:
                    inputs[module] = A - self.rate * moves[:, None] * (B.T @ slope)
                if "output" in fit.sides:
                    outputs[module] = B - self.rate * moves * (slope @ A.T)
            if self.spec.head != "frozen":
                dense = {name: part - self.rate * (part - target) for name, part in dense.items()}
            start = replace(start, adapter=Adapter(inputs, outputs))
            losses.append(loss)
        kept = {} if self.spec.head == "frozen" else dense
        trained = replace(start, adapter=start.adapter.with_dense(kept))
        return Fitted(trained, steps, sum(losses) / max(len(losses), 1))

    def _score(self, client: str, start: Start) -> Score:
        modules, _ = self._data(client)
        residuals = [self._residual(start, module, *data) for module, data in modules.items()]
        loss = sum(float(residual.square().sum()) for residual in residuals)
        correct = sum(int((residual.square().mean(dim=1) < 1).sum()) for residual in residuals)
        return Score(_SAMPLES * len(residuals), correct, loss)
