# SPDX-License-Identifier: Apache-2.0
"""Wrappers: a method around a method, at one of three places.

Its fits (`FedProx`), its uploads before they are aggregated (`Clip`), the step of its state (`FedAvgM`,
`FedAdam`). Everything else is the inner method's own. Wrappers go around each other.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from fedlora.core.adapter import SIDES, AdapterSpec, Tensors
from fedlora.core.payload import Payload, Tree, branch, tensors_at, walk_tensors
from fedlora.core.penalties import Proximal
from fedlora.core.rounds import Client, Upload
from fedlora.core.slots import changed_slots
from fedlora.errors import MethodError
from fedlora.methods.base import Exact, Method, Outcome, Programme, State


@dataclass(frozen=True)
class Wrapper(Method):
    """Hands everything on to the inner method: its class facts and its functions."""

    wrapper_name: ClassVar[str]
    """What it is called in a config."""

    inner: Method
    """The method that is wrapped."""

    def aggregate(self, state: State, uploads: Iterable[Upload], round: int) -> State:
        """Server: the inner method's."""
        return self.inner.aggregate(state, uploads, round)


_FACTS = (
    "name", "mixed_ranks", "exact", "private", "kinds", "centralized", "needs_client_state", "refactorizes",
    "supports_server_optimizer", "common_start", "sends_changes", "idempotence_tolerance", "lr_b_ratio",
)  # fmt: skip
_FUNCTIONS = (
    "check_federation", "init", "rank", "full_participation", "dispatched_ranks", "down", "dispatch", "upload_schema",
    "result", "trains", "slots_up", "receive", "upload", "client", "private_sides", "needs_validation",
    "example_weighted", "exactness", "keeps_client_state", "head_mode",
)  # fmt: skip


def _function(name: str) -> Callable[..., Any]:
    def handed_on(self: Wrapper, *args: Any, **named: Any) -> Any:
        return getattr(self.inner, name)(*args, **named)

    handed_on.__name__ = name
    handed_on.__doc__ = "The inner method's."
    return handed_on


for _name in _FACTS:
    setattr(Wrapper, _name, property(attrgetter(f"inner.{_name}")))
for _name in _FUNCTIONS:
    setattr(Wrapper, _name, _function(_name))


def altered(inner: Method) -> Exact:
    """What is left of a method's exactness where its average is changed."""
    return "none" if inner.exactness() == "none" else "no"


@dataclass(frozen=True)
class FedProx(Wrapper):
    """Pulls every client's training back to where it started (Li et al., arXiv 1812.06127).

    The loss gets mu / 2 times the squared distance from the start, over the sides that train and are shared.
    """

    wrapper_name: ClassVar[str] = "fedprox"

    mu: float = 0.01
    """How hard it pulls."""

    def __post_init__(self) -> None:
        if self.mu < 0.0:
            raise MethodError(f"wrap fedprox: mu is {self.mu}; it must be at least 0.")

    def client(self, payload: Payload, kept: Payload, client: Client, spec: AdapterSpec, round: int) -> Programme:
        """Client: the inner programme, with a penalty on every fit that it asks for."""
        programme = self.inner.client(payload, kept, client, spec, round)
        fit = next(programme)
        while True:
            pull = Proximal(self.mu, fit.sides - self.private_sides())
            fitted = yield replace(fit, penalties=(*fit.penalties, pull))
            try:
                fit = programme.send(fitted)
            except StopIteration as stop:
                return cast(Outcome, stop.value)


@dataclass(frozen=True)
class Clip(Wrapper):
    """Bounds how far one client can move the average: an upload's change is scaled down to a norm.

    The change is what was uploaded less what was dispatched, over all sides and modules together; of a method
    that uploads changes, the upload itself.
    """

    wrapper_name: ClassVar[str] = "clip"
    idempotence_tolerance: ClassVar[float | None] = None

    norm: float = 1.0
    """The largest Euclidean norm of a client's change."""

    def __post_init__(self) -> None:
        if self.norm <= 0.0:
            raise MethodError(f"wrap clip: norm is {self.norm}; it must be above 0.")
        if not self.inner.common_start:
            raise MethodError(
                f"wrap clip does not go around {self.inner.name}: its clients draw factors of their own, so that the "
                f"server cannot tell what an upload changed. Choose another method, or leave the wrapper out."
            )

    def exactness(self) -> Exact:
        """A clipped mean is no mean."""
        return altered(self.inner)

    def aggregate(self, state: State, uploads: Iterable[Upload], round: int) -> State:
        """Server: clip, then aggregate."""
        clipped = (replace(own, payload=self.clipped(state, own, round)) for own in uploads)
        return self.inner.aggregate(state, clipped, round)

    def clipped(self, state: State, upload: Upload, round: int) -> Payload:
        """An upload whose change is no longer than `norm`."""
        origin: Payload = {}
        if not self.inner.sends_changes:
            origin = self.inner.dispatch(state, replace(upload.client, last_seen_round=None), round)
        moved = _combined(upload.payload, origin, lambda own, start: own - start)
        squares = sum(float(t.double().square().sum()) for t in walk_tensors(moved) if t.is_floating_point())
        share = min(1.0, self.norm / squares**0.5) if squares else 1.0
        if share == 1.0:
            return upload.payload
        return _combined(moved, origin, lambda own, start: share * own + start)


def _combined(payload: Payload, origin: Payload, rule: Callable[[Tensor, Tensor], Tensor]) -> dict[str, Tree]:
    """A rule over the floating-point tensors of a payload, each with its like in `origin` (absent: zero)."""
    result: dict[str, Tree] = {}
    for key, own in payload.items():
        start = origin.get(key)
        if isinstance(own, Tensor) and own.is_floating_point():
            like = start if isinstance(start, Tensor) else torch.zeros_like(own)
            if own.shape != like.shape:  # a client that has pruned itself sends fewer slots
                like = like[tuple(slice(size) for size in own.shape)]
            result[key] = rule(own, like)
        elif isinstance(own, Mapping):
            result[key] = _combined(own, start if isinstance(start, Mapping) else {}, rule)
        else:
            result[key] = own
    return result


@dataclass(frozen=True)
class ServerOptimizer(Wrapper):
    """Takes the change of an average as a gradient, and makes a step of its own (Reddi et al., arXiv 2003.00295).

    Moments are kept per side and module. A slot that did not change (a frozen side, a slot that nobody sent)
    does not move, and its moments stay.
    """

    idempotence_tolerance: ClassVar[float | None] = None
    moments: ClassVar[tuple[str, ...]] = ()
    """What is kept from round to round."""

    lr: float = 1.0
    """The server's learning rate."""

    def __post_init__(self) -> None:
        if self.lr <= 0.0:
            raise MethodError(f"wrap {self.wrapper_name}: lr is {self.lr}; it must be above 0.")
        if not self.inner.supports_server_optimizer:
            raise MethodError(
                f"wrap {self.wrapper_name} does not go around {self.inner.name}, whose factors are made anew or "
                f"corrected every round: moments of one would mean nothing in the next. It goes around methods "
                f"whose global factors persist, such as fedit, lora-a2, ffa or fedsa."
            )

    @abstractmethod
    def step(self, change: Tensor, old: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """How far to move, and the new moments, of one side of one module."""

    def exactness(self) -> Exact:
        """A step with moments is no mean."""
        return altered(self.inner)

    def init(self, spec: AdapterSpec, seed: int) -> State:
        """Server: the inner state, with moments of zero."""
        state = self.inner.init(spec, seed)
        zero: Payload = {side: {m: torch.zeros_like(t) for m, t in state.adapter.side(side).items()} for side in SIDES}
        return replace(state, extra={"inner": state.extra, "moments": dict.fromkeys(self.moments, zero)})

    def aggregate(self, state: State, uploads: Iterable[Upload], round: int) -> State:
        """Server: the inner average, then a step of the optimiser in its place."""
        before = inside(state)
        after = self.inner.aggregate(before, uploads, round)
        moments = {name: branch(branch(state.extra, "moments"), name) for name in self.moments}
        fresh: dict[str, dict[str, Tensors]] = {name: {} for name in self.moments}
        adapter = after.adapter
        for side in SIDES:
            old = {name: tensors_at(moments[name], side) for name in self.moments}
            moved: dict[str, Tensor] = {}
            kept: dict[str, dict[str, Tensor]] = {name: {} for name in self.moments}
            for module, start in before.adapter.side(side).items():
                change = after.adapter.side(side)[module] - start
                mask = changed_slots(adapter.kind, side, change)
                step, new = self.step(change, {name: old[name][module] for name in self.moments})
                moved[module] = torch.where(mask, start + step, start)
                for name, value in new.items():
                    kept[name][module] = torch.where(mask, value, old[name][module])
            adapter = adapter.with_side(side, moved)
            for name in self.moments:
                fresh[name][side] = kept[name]
        return replace(after, adapter=adapter, extra={"inner": after.extra, "moments": fresh})


def _inside(name: str) -> Callable[..., Any]:
    def handed_on(self: ServerOptimizer, state: State, *args: Any) -> Any:
        return getattr(self.inner, name)(inside(state), *args)

    handed_on.__name__ = name
    handed_on.__doc__ = "The inner method's."
    return handed_on


for _name in ("rank", "full_participation", "dispatched_ranks", "dispatch", "upload_schema", "result"):
    setattr(ServerOptimizer, _name, _inside(_name))


@dataclass(frozen=True)
class FedAvgM(ServerOptimizer):
    """Momentum at the server (Hsu et al., arXiv 1909.06335).

    v = momentum v + change; factor += lr v.
    """

    wrapper_name: ClassVar[str] = "fedavgm"
    moments: ClassVar[tuple[str, ...]] = ("first",)

    momentum: float = 0.9
    """How much of the last step is made again."""

    def step(self, change: Tensor, old: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """One step of one side of one module."""
        first = self.momentum * old["first"] + change
        return self.lr * first, {"first": first}


@dataclass(frozen=True)
class FedAdam(ServerOptimizer):
    """Adam at the server (Reddi et al., arXiv 2003.00295, algorithm 2).

    m = beta1 m + (1 - beta1) change; v = beta2 v + (1 - beta2) change^2; factor += lr m / (sqrt(v) + tau).
    """

    wrapper_name: ClassVar[str] = "fedadam"
    moments: ClassVar[tuple[str, ...]] = ("first", "second")

    lr: float = 1e-3
    """The server's learning rate."""
    beta1: float = 0.9
    """How long the first moment remembers."""
    beta2: float = 0.99
    """How long the second moment remembers."""
    tau: float = 1e-3
    """How adaptive it is: small is more."""

    def step(self, change: Tensor, old: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """One step of one side of one module."""
        first = self.beta1 * old["first"] + (1.0 - self.beta1) * change
        second = self.beta2 * old["second"] + (1.0 - self.beta2) * change.square()
        return self.lr * first / (second.sqrt() + self.tau), {"first": first, "second": second}


WRAPPERS: Mapping[str, type[Wrapper]] = {own.wrapper_name: own for own in (FedProx, Clip, FedAvgM, FedAdam)}
"""Every wrapper by name."""


def inside(state: State) -> State:
    """The state as the wrapped method knows it."""
    return replace(state, extra=branch(state.extra, "inner"))
