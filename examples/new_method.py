"""A new method in one file: server and client half together, held to every law by `fedlora check`.

Momentum: the mean of the clients' changes is added to a running direction, and the factors follow it.

    fedlora check examples/new_method.py:Momentum
    fedlora run --set method.name=examples/new_method.py:Momentum --set method.keep=0.5
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from fedlora.core.adapter import SIDES, AdapterSpec
from fedlora.core.payload import tensors_at
from fedlora.core.settings import Range
from fedlora.core.slots import SlotSums
from fedlora.methods.base import Method, State, move_to
from fedlora.methods.facts import Facts


@dataclass(frozen=True)
class Momentum(Method):
    """FedAvgM on both sides of the adapter; clients train and upload as in FedIT."""

    name: ClassVar[str] = "momentum"

    keep: Annotated[float, Range(at_least=0.0, below=1.0)] = 0.3
    """How much of the last round's direction is kept."""

    @property
    def facts(self) -> Facts:
        """Weighted sums of every slot are all that the server needs; a running direction is no mean (exact: no)."""
        return Facts(consumes="slot sums", exact="no")

    def init(self, spec: AdapterSpec, seed: int) -> State:
        """Server: a fresh adapter, and no direction yet."""
        state = super().init(spec, seed)
        still = {side: {m: 0 * t for m, t in state.adapter.side(side).items()} for side in SIDES}
        return replace(state, extra=still)

    def advance(self, state: State, total: SlotSums, round: int) -> State:
        """Server: direction = keep x direction + (mean - factors); factors += direction."""
        moved, directions = {}, {}
        for side in SIDES:
            old, mean, past = state.adapter.side(side), total.mean(side), tensors_at(state.extra, side)
            directions[side] = {m: self.keep * past[m] + (mean[m].to(t.dtype) - t) for m, t in old.items()}
            moved[side] = {m: t + directions[side][m] for m, t in old.items()}
        return replace(move_to(state, moved), extra=directions)
