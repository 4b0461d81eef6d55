# SPDX-License-Identifier: Apache-2.0
"""A trainer that trains nothing: random changes in the right places, so that what travels has the right shape.

With it a whole run goes through the real methods, stages, validation and encoding in a fraction of its time. How many
bytes that takes, and how many steps it would take, is counted where a run counts it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fedlora.core.adapter import SIDES, Adapter, AdapterSpec, Tensors, without_idle_slots
from fedlora.core.kinds import Side, slot_axis
from fedlora.core.metrics import Score, Scoring
from fedlora.core.rounds import Duration, Failure, Fit, FitJob, Fitted, ScoreJob
from fedlora.core.seeds import torch_stream
from fedlora.training.data.digests import model_digest
from fedlora.training.loop import ModelTrainer

_CHANGE = 1e-3
"""The size of a change: any but zero would do."""


@dataclass(frozen=True)
class _StandIn:
    """What a trainer that stands in for another has of it."""

    trainer: ModelTrainer

    @property
    def spec(self) -> AdapterSpec:
        """The adapter."""
        return self.trainer.spec

    @property
    def head(self) -> Tensors:
        """The base's dense parts."""
        return self.trainer.head

    @property
    def scoring(self) -> Scoring:
        """The metrics of the task."""
        return self.trainer.scoring


@dataclass(frozen=True)
class Untrained(_StandIn):
    """Stands in for a trainer.

    Args:
        trainer: knows who owns how many examples, and the task.
        seed: draws the changes; what differs between two seeds depends on the training.
    """

    seed: int
    moved: dict[tuple[str, int], int] = field(default_factory=dict)
    """(client, round) -> how many numbers moved in its last fit."""
    passed: list[int] = field(default_factory=list)
    """Of each score, the examples that a trainer would have passed through the model for it."""
    scored: dict[str | None, bytes] = field(default_factory=dict)
    """Client -> the digest of the model that was scored on its part last."""

    def fit(self, jobs: Sequence[FitJob]) -> list[Fitted | Failure]:
        """Change at random what would train."""
        return [self._fit(job) for job in jobs]

    def score(self, jobs: Sequence[ScoreJob]) -> list[Score | Failure]:
        """A random score on as many examples as there are."""
        return [self._score(job) for job in jobs]

    def _fit(self, job: FitJob) -> Fitted:
        fit, adapter = job.fit, job.fit.start.adapter
        generator = torch_stream(self.seed, "untrained", job.client, job.round)
        count = 0

        def changed(tensor: Tensor, moves: Tensor | None) -> Tensor:
            nonlocal count
            change = _CHANGE * torch.randn(tensor.shape, generator=generator)
            if moves is None:
                count += tensor.numel()
                return tensor + change
            count += int(moves.expand(tensor.shape).sum())
            return tensor + change * moves

        sides: dict[Side, Tensors] = {}
        for side in SIDES:
            sides[side] = adapter.side(side)
            if side in fit.sides:
                sides[side] = {m: changed(t, _moves(fit, adapter, side, m)) for m, t in sides[side].items()}
        dense = dict(adapter.dense) or dict(self.head) if self.spec.head != "frozen" else {}
        dense = {name: changed(tensor, None) for name, tensor in dense.items()}
        self.moved[job.client, job.round] = count
        gradient: dict[Side, Tensors] = {}
        if fit.measure == "gradient":
            gradient = {side: {m: torch.randn_like(t) for m, t in sides[side].items()} for side in fit.sides}
        trained = Adapter(sides["input"], sides["output"], dense, adapter.kind)
        return Fitted(replace(fit.start, adapter=trained), self.trainer.steps_of(job), 1.0, gradient)

    def _score(self, job: ScoreJob) -> Score:
        parts, model = self.trainer.parts_of(job), model_digest(without_idle_slots(job.start))
        self.passed.append(sum(n for client, n in parts.items() if job.client or self.scored.get(client) != model))
        if job.client is not None:
            self.scored[job.client] = model
        examples = sum(parts.values())
        share = float(torch.rand((), generator=torch_stream(self.seed, "unscored", job.client or "")))
        within = {name: (low, min(high, low + 1)) for name, (low, high) in self.scoring.sums.items()}
        return Score(examples, {name: examples * (low + share * (high - low)) for name, (low, high) in within.items()})


def _moves(fit: Fit, adapter: Adapter, side: Side, module: str) -> Tensor | None:
    """1 where a masked fit moves a side of a module, as a tensor that meets its shape; None: everywhere."""
    if fit.mask is None:
        return None
    mask = fit.mask[module].float()
    return mask[:, None] if slot_axis(adapter.kind, side) == 0 else mask[None, :]


@dataclass(frozen=True)
class FewSteps(_StandIn):
    """A trainer whose fits end after a few steps, and whose scores are another's."""

    steps: int
    scorer: Untrained

    def fit(self, jobs: Sequence[FitJob]) -> list[Fitted | Failure]:
        """Train for the few steps."""
        few = Duration(steps=self.steps)
        return self.trainer.fit([replace(job, fit=replace(job.fit, duration=few)) for job in jobs])

    def score(self, jobs: Sequence[ScoreJob]) -> list[Score | Failure]:
        """The other's."""
        return self.scorer.score(jobs)
