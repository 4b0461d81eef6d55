# SPDX-License-Identifier: Apache-2.0
"""The proximal term: clients that do not stray far from where they started."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from fedlora.core.penalties import Proximal
from fedlora.core.rounds import Fit
from fedlora.core.settings import Range
from fedlora.federation.stages.base import Stage
from fedlora.methods.facts import Facts


@dataclass(frozen=True)
class FedProx(Stage):
    """Pulls every client's training back to where it started (Li et al., arXiv 1812.06127).

    The loss gets mu / 2 times the squared distance from the start, over the sides that train and are shared; the
    head trains without it.
    """

    name: ClassVar[str] = "fedprox"

    mu: Annotated[float, Range(at_least=0.0)] = 0.01
    """How hard it pulls."""

    def request(self, fit: Fit, facts: Facts) -> Fit:
        """Client: the same training with one penalty more."""
        pull = Proximal(self.mu, fit.sides - facts.private_sides)
        return replace(fit, penalties=(*fit.penalties, pull))
