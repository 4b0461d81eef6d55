# SPDX-License-Identifier: Apache-2.0
"""Optimizers at the server: the round's change of the average as a gradient (Reddi et al., arXiv 2003.00295)."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from fedlora.core.adapter import SIDES
from fedlora.core.payload import Payload, branch, tensors_at
from fedlora.core.settings import AboveZero, Share
from fedlora.core.slots import changed_slots
from fedlora.errors import MethodError
from fedlora.federation.stages.base import Stage
from fedlora.methods.base import State
from fedlora.methods.facts import Facts


@dataclass(frozen=True)
class ServerOptimizer(Stage):
    """Makes a step with moments where the method makes the average.

    Moments are kept per side and module. A slot that did not change (a frozen side, a slot that nobody sent)
    does not move, and its moments stay. The head keeps its plain average: it has no slots, and a head that is
    private or frozen has no average at all.
    """

    moments: ClassVar[tuple[str, ...]]
    """What is kept from round to round."""

    lr: AboveZero = 1.0
    """The server's learning rate."""

    @abstractmethod
    def move(self, change: Tensor, old: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """How far to move, and the new moments, of one side of one module."""

    def check(self, method: str, facts: Facts) -> None:
        """Refuse methods whose factors are not the same factors in the next round."""
        if not facts.supports_server_optimizer:
            raise MethodError(
                f"stage {self.name} does not go with {method}, whose factors are made anew or corrected every round: "
                f"moments of one would mean nothing in the next. It goes with methods whose global factors persist, "
                f"such as fedit, lora-a2, ffa or fedsa."
            )

    def facts(self, facts: Facts) -> Facts:
        """A step with moments is no mean."""
        return replace(facts.inexact(), idempotence_tolerance=None)

    def init(self, state: State) -> Payload:
        """Server: moments of zero."""
        zero = {side: {m: torch.zeros_like(t) for m, t in state.adapter.side(side).items()} for side in SIDES}
        moments: Payload = {name: {side: zero[side] for side in SIDES} for name in self.moments}
        return moments

    def step(self, before: State, after: State, kept: Payload) -> tuple[State, Payload]:
        """Server: a step of the optimizer in place of the method's."""
        fresh: dict[str, dict[str, dict[str, Tensor]]] = {name: {} for name in self.moments}
        adapter = after.adapter
        for side in SIDES:
            old = {name: tensors_at(branch(kept, name), side) for name in self.moments}
            new: dict[str, dict[str, Tensor]] = {name: {} for name in self.moments}
            moved: dict[str, Tensor] = {}
            for module, start in before.adapter.side(side).items():
                change = after.adapter.side(side)[module] - start
                mask = changed_slots(adapter.kind, side, change)
                step, moments = self.move(change, {name: old[name][module] for name in self.moments})
                moved[module] = torch.where(mask, start + step, start)
                for name, value in moments.items():
                    new[name][module] = torch.where(mask, value, old[name][module])
            adapter = adapter.with_side(side, moved)
            for name in self.moments:
                fresh[name][side] = new[name]
        keep: Payload = {name: dict(sides) for name, sides in fresh.items()}
        return replace(after, adapter=adapter), keep


@dataclass(frozen=True)
class FedAvgM(ServerOptimizer):
    """Momentum at the server (Hsu et al., arXiv 1909.06335).

    v = momentum v + change; factor += lr v.
    """

    name: ClassVar[str] = "fedavgm"
    moments: ClassVar[tuple[str, ...]] = ("first",)

    momentum: Share = 0.9
    """How much of the last step is made again."""

    def move(self, change: Tensor, old: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """One step of one side of one module."""
        first = self.momentum * old["first"] + change
        return self.lr * first, {"first": first}


@dataclass(frozen=True)
class FedAdam(ServerOptimizer):
    """Adam at the server (Reddi et al., arXiv 2003.00295, algorithm 2).

    m = beta1 m + (1 - beta1) change; v = beta2 v + (1 - beta2) change^2; factor += lr m / (sqrt(v) + tau).
    """

    name: ClassVar[str] = "fedadam"
    moments: ClassVar[tuple[str, ...]] = ("first", "second")

    lr: AboveZero = 1e-3
    """The server's learning rate."""
    beta1: Share = 0.9
    """How long the first moment remembers."""
    beta2: Share = 0.99
    """How long the second moment remembers."""
    tau: AboveZero = 1e-3
    """How adaptive it is: small is more."""

    def move(self, change: Tensor, old: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """One step of one side of one module."""
        first = self.beta1 * old["first"] + (1.0 - self.beta1) * change
        second = self.beta2 * old["second"] + (1.0 - self.beta2) * change.square()
        return self.lr * first / (second.sqrt() + self.tau), {"first": first, "second": second}
