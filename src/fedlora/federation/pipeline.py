# SPDX-License-Identifier: Apache-2.0
"""A method with its stages: what server and clients run.

At the client an update goes through the stages in their order, the first one standing next to the method; at the
server it goes back through them in reverse, is added up by the method, and the new state goes through them in order:

    method.client -> outgoing 1 .. n -> wire -> incoming n .. 1 -> method.aggregate -> step 1 .. n

What stages have no part in (dispatch, ranks, results) is asked of the method itself.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property, partial

from fedlora.core.adapter import AdapterSpec, Tensors
from fedlora.core.payload import Payload, Tree, branch
from fedlora.core.rounds import Client, Fit
from fedlora.core.slots import Content, Part
from fedlora.core.update import Update
from fedlora.federation.stages.base import Stage
from fedlora.methods.base import Method, State
from fedlora.methods.facts import Facts


@dataclass(frozen=True)
class Pipeline:
    """A method and the stages between it and the wire.

    Raises:
        MethodError: a stage makes no sense with this method, or with the stages before it.
    """

    method: Method
    stages: tuple[Stage, ...] = ()

    def __post_init__(self) -> None:
        facts = self.method.facts
        for stage in self.stages:
            stage.check(self.method.name, facts)
            facts = stage.facts(facts)

    @cached_property
    def facts(self) -> Facts:
        """The method's facts, as the stages leave them."""
        facts = self.method.facts
        for stage in self.stages:
            facts = stage.facts(facts)
        return facts

    # ------------------------------------------------------------------------------------------ client

    def request(self, fit: Fit) -> Fit:
        """Client: the training that is asked of the trainer where the method asks for `fit`."""
        for stage in self.stages:
            fit = stage.request(fit, self.facts)
        return fit

    def outgoing(self, update: Update, kept: Payload) -> tuple[Update, Payload]:
        """Client: what is sent, and what the stages keep.

        Args:
            update: all that the client contributes, its head included.
            kept: what the stages kept in the client's last round.
        """
        fresh: dict[str, Tree] = {}
        for place, stage in enumerate(self.stages):
            update, keep = stage.outgoing(update, branch(kept, str(place)))
            if keep:
                fresh[str(place)] = keep
        return update, fresh

    # ------------------------------------------------------------------------------------------ server

    def init(self, spec: AdapterSpec, seed: int, head: Tensors) -> State:
        """Server: the state before round 1.

        Args:
            spec: the adapter.
            seed: of the run.
            head: the base's.
        """
        state = replace(self.method.init(spec, seed), head=head)
        kept = {str(place): stage.init(state) for place, stage in enumerate(self.stages)}
        return replace(state, stages={place: keep for place, keep in kept.items() if keep})

    def aggregate(self, state: State, updates: Iterable[Update], round: int) -> State:
        """Server: the next state.

        Args:
            state: the state that this round was dispatched from.
            updates: the accepted updates in client order, at least one; gone through once.
            round: the global round, from 1.
        """
        arrived = (self.incoming(state, update, round) for update in updates)
        after = self.method.aggregate(state, arrived, round)
        fresh: dict[str, Tree] = {}
        for place, stage in enumerate(self.stages):
            after, keep = stage.step(state, after, branch(state.stages, str(place)))
            if keep:
                fresh[str(place)] = keep
        return replace(after, stages=fresh)

    def incoming(self, state: State, update: Update, round: int) -> Update:
        """Server: what is added up in place of an update."""
        start = partial(self.start, state, update.client, update.content, round)
        for stage in reversed(self.stages):
            update = stage.incoming(update, start)
        return update

    def start(self, state: State, client: Client, content: Content, round: int) -> Update:
        """Server: what a client's update counts from. Sides that are sent as changes count from zero."""
        sides: Part = {}
        if content == "values":
            whole = self.method.dispatch(state, replace(client, last_seen_round=None), round)
            sides = Update.from_payload(client, {"adapter": sides_only(whole)}).sides
        return Update(client, sides, state.head, content=content)


def sides_only(payload: Payload) -> Payload:
    """The sides of an adapter, without what else a method dispatches."""
    return {side: payload[side] for side in ("input", "output") if side in payload}
