# SPDX-License-Identifier: Apache-2.0
"""The laws of what stands between a method and the loop: stages, hooks, ranks."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedlora.core.payload import Payload, to_bytes
from fedlora.core.slots import Sparse
from fedlora.core.update import Update
from fedlora.federation.pipeline import Pipeline
from fedlora.federation.stages.base import Stage
from fedlora.federation.transport import split_head
from fedlora.laws.evidence import aggregations, observed, require, slots_sent
from fedlora.laws.smoke import altered, public_functions
from fedlora.laws.world import Play, World, play
from fedlora.methods.base import Method

_ROUNDING = 1e-5


def stages(pipeline: Pipeline, world: World) -> None:
    """What a stage promises holds of the whole update: behind it no change is longer than it says, head included."""
    run = observed(pipeline, world)
    bound = min((stage.largest_norm for stage in pipeline.stages if stage.largest_norm is not None), default=None)
    for round, before, updates in aggregations(run):
        for update in updates:
            who = f"round {round}, {update.client.id}"
            arrived = pipeline.incoming(before, update, round)
            require(arrived.head.keys() == update.head.keys(), f"{who}: the head is lost, or comes from nowhere")
            if bound is not None:
                length = _length(arrived, pipeline.start(before, update.client, update.content, round))
                within = length <= bound + _ROUNDING * (1.0 + bound)
                require(within, f"{who}: a change of norm {length:.4g}, head included; at most {bound:g} is promised")


def _length(update: Update, start: Update) -> float:
    """The norm of a change, put together here and not by `Update`."""
    changes: list[Tensor] = [tensor - start.head[name] for name, tensor in update.head.items()]
    for side, modules in update.sides.items():
        for module, sent in modules.items():
            value = sent.values if isinstance(sent, Sparse) else sent
            origin = start.sides.get(side, {}).get(module)
            if isinstance(origin, Tensor):
                value = value - origin[tuple(slice(size) for size in value.shape)]
            changes.append(value)
    return float(torch.cat([change.double().flatten() for change in changes]).norm()) if changes else 0.0


@dataclass(frozen=True)
class _Nothing(Stage):
    """A stage that changes nothing."""

    name: ClassVar[str] = "nothing"


def hooks(pipeline: Pipeline, world: World) -> None:
    """Behind one more stage that changes nothing, the same functions of the method are asked and no bit changes."""
    asked: Counter[str] = Counter()
    asked_behind: Counter[str] = Counter()
    alone = play(replace(pipeline, method=_watched(pipeline.method, asked)), world)
    longer = replace(pipeline, method=_watched(pipeline.method, asked_behind), stages=(_Nothing(), *pipeline.stages))
    behind = play(longer, world)
    differ = sorted(name for name in asked | asked_behind if asked[name] != asked_behind[name])
    require(not differ, f"behind a stage that changes nothing, {', '.join(differ)} is asked more or less often")
    require(_kept(alone) == _kept(behind), "behind a stage that changes nothing, other bits")


def _watched(method: Method, calls: Counter[str]) -> Method:
    """The same method, whose public functions count how often they are asked."""

    def counted(name: str) -> Callable[..., Any]:
        hook = getattr(type(method), name)

        def asked(self: Method, *args: Any, **named: Any) -> Any:
            calls[name] += 1
            return hook(self, *args, **named)

        return asked

    return altered(method, {name: counted(name) for name in public_functions(Method)})


def _kept(run: Play) -> bytes:
    """All servers' states and what clients keep, wherever in the chain a stage stands."""
    trees: Payload = {
        "servers": [{**s.state.to_payload(), "stages": list(s.state.stages.values())} for s in run.servers],
        "clients": [
            {
                client: [{**state.to_payload(), "stages": list(state.stages.values())} for state in held]
                for client, held in sorted(kept.items())
            }
            for kept in run.client_states
        ],
    }
    return to_bytes(trees)


def ranks_once(pipeline: Pipeline, world: World) -> None:
    """`rank` is applied once: where a method takes one slot away, one slot fewer is sent, not two."""
    if world.kind != "lora":
        return
    method, rank = pipeline.method, type(pipeline.method).rank
    less = altered(method, {"rank": lambda self, state, client: max(1, rank(self, state, client) - 1)})
    run = play(replace(pipeline, method=less), world)
    configured = {client.id: client for client in run.world.clients}
    for order in run.transport.orders:
        state, who = run.servers[order.round - 1].state, f"round {order.round}, {order.client.id}"
        due = less.rank(state, configured[order.client.id])
        require(order.client.rank == due, f"{who}: its rank is {order.client.rank}, where the method says {due}")
        slots = sum(method.dispatched_ranks(state, order.client).values())
        down = slots_sent(world.kind, split_head(order.payload)[0])
        require(set(down.values()) <= {slots}, f"{who}: of rank {due} was sent {down} slots, not {slots} a side")
