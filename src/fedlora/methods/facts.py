# SPDX-License-Identifier: Apache-2.0
"""What a method declares of itself: one frozen value per method object, computed from its hyperparameters.

The loop, the stages, the law book, `fedlora methods` and the documentation all read these facts, and the laws hold a
method to them.
"""

from dataclasses import dataclass, replace
from typing import Literal

from fedlora.core.adapter import BOTH, NEITHER, AdapterSpec, HeadMode, Sides
from fedlora.core.kinds import Kind
from fedlora.core.slots import Content

Exact = Literal["update", "before truncation", "no", "none"]
Consumes = Literal["slot sums", "product sums", "slot and product sums", "individual"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The facts of one method, or of a method with its stages."""

    consumes: Consumes = "slot sums"
    """What the server needs of the clients' updates. `slot sums`: weighted sums over clients, slot by slot.
    `product sums`: weighted sums of B_k A_k. `slot and product sums`: both. `individual`: each client's update
    by itself, so that sums under encryption or with noise are not enough."""
    exact: Exact = "no"
    """`update`: effective_new - effective_old = sum_k w_k (trained_k - start_k). `before truncation`: the
    result is the best approximation of sum_k w_k s trained_k. `none`: there is no global model."""
    mixed_ranks: bool = False
    """Whether clients may have different ranks or budgets."""
    private_sides: Sides = NEITHER
    """Sides that a client trains and keeps: they never travel up."""
    kinds: frozenset[Kind] = frozenset({"lora"})
    """Which kinds of adapter it takes."""
    sends: Content = "values"
    """Whether clients send trained values or changes."""
    centralized: bool = False
    """One client holds everyone's data."""
    needs_client_state: bool = False
    """Whether a client must still hold what it kept in its last round (always, with private sides)."""
    needs_validation: bool = False
    """Whether clients score themselves on a validation part of their data."""
    example_weighted: bool = True
    """Whether only the ratio of examples counts; False where clients count by something else."""
    refactorizes: bool = False
    """Whether aggregation makes new factors (SVD), so that slots do not correspond across rounds."""
    supports_server_optimizer: bool = True
    """Whether global factors are updated additively from round to round, as server optimizers require."""
    trains: bool = True
    """Whether clients train at all, the head included."""
    common_start: bool = True
    """Whether the server knows what a client's training started from."""
    idempotence_tolerance: float | None = None
    """Relative tolerance within which identical updates aggregate to themselves, as effective deltas; None: not
    declared."""
    lr_b_ratio: float = 1.0
    """How much faster B learns than A where the config does not say."""

    @property
    def newcomer(self) -> str:
        """In words: the model of a client that never took part. A private head is the base's there."""
        if not self.private_sides:
            return "the global model"
        if self.private_sides == BOTH:
            return "the model that the run began with"
        kept, shared = ("input", "output") if "input" in self.private_sides else ("output", "input")
        return f"the averaged {shared} side, with the {kept} side as every client began"

    def head_mode(self, spec: AdapterSpec) -> HeadMode:
        """What becomes of the head. Where nothing is shared, a shared head is not either."""
        if not self.trains:
            return "frozen"
        return "private" if spec.head == "shared" and self.private_sides == BOTH else spec.head

    def keeps_client_state(self, spec: AdapterSpec) -> bool:
        """Whether a client of this federation keeps anything from round to round."""
        return self.needs_client_state or bool(self.private_sides) or self.head_mode(spec) == "private"

    def inexact(self) -> "Facts":
        """What is left of these facts where the weighted mean is replaced by something else."""
        return replace(self, exact="none" if self.exact == "none" else "no")
