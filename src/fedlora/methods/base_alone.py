# SPDX-License-Identifier: Apache-2.0
"""The base alone: what every method has to beat."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from fedlora.core.adapter import NEITHER, SIDES, Adapter, AdapterSpec, Sides, Start
from fedlora.core.kinds import Side, side_shape
from fedlora.core.payload import Payload
from fedlora.core.rounds import Client
from fedlora.core.schema import UploadSchema
from fedlora.core.slots import SlotSums
from fedlora.core.update import Update
from fedlora.methods.base import Method, Outcome, Programme, State
from fedlora.methods.facts import Facts


@dataclass(frozen=True)
class BaseAlone(Method):
    """Nothing is trained: the model that a run begins with is scored.

    Idea: the row that every table needs; a language model says something before it is trained, and a method that does
    not beat it is worth nothing.
    Formula: none.
    What travels: nothing.
    Mixed ranks: yes; there are no slots.
    Exact: nothing is aggregated.
    Departures: none.
    Reference: the usual baseline.
    """

    name: ClassVar[str] = "base"

    @property
    def facts(self) -> Facts:
        """Nothing trains, the head included."""
        return Facts(
            kinds=frozenset(("lora", "vera", "dense")), mixed_ranks=True, trains=False, supports_server_optimizer=False
        )

    def init(self, spec: AdapterSpec, seed: int) -> State:
        """Server: the adapter that the run starts from, or one that adds nothing."""
        return State(_beginning(spec))

    def dispatched_ranks(self, state: State, client: Client) -> Mapping[str, int]:
        """Server: none."""
        return dict.fromkeys(state.adapter.output, 0)

    def down(self, round: int) -> Sides:
        """Server: none."""
        return NEITHER

    def dispatch(self, state: State, client: Client, round: int) -> Payload:
        """Server: nothing; a client has the base, and what the run starts from."""
        return {}

    def upload_schema(self, state: State, client: Client, spec: AdapterSpec, round: int) -> UploadSchema:
        """Server: nothing."""
        return UploadSchema()

    def advance(self, state: State, total: SlotSums, round: int) -> State:
        """Server: nothing was added up."""
        return state

    def trains(self, round: int) -> Sides:
        """Client: nothing."""
        return NEITHER

    def receive(self, payload: Payload, kept: Payload, client: Client, spec: AdapterSpec) -> Start:
        """Client: the model that the run began with."""
        return Start(_beginning(spec))

    def client(self, payload: Payload, kept: Payload, client: Client, spec: AdapterSpec, round: int) -> Programme:
        """Client: asks for no training and contributes nothing."""
        return Outcome(Update(client))
        yield  # what makes this a generator


def _beginning(spec: AdapterSpec) -> Adapter:
    """What a run starts from; by default an adapter of zeros, with one slot, since no file holds one without any."""
    if spec.start is not None:
        return spec.start
    sides: dict[Side, dict[str, torch.Tensor]] = {side: {} for side in SIDES}
    for module, shape in spec.shapes.items():
        for side in SIDES:
            expected = side_shape(spec.kind, side, shape, 1 if spec.kind == "lora" else spec.rank)
            if expected is not None:
                sides[side][module] = torch.zeros(expected)
    return Adapter(sides["input"], sides["output"], kind=spec.kind)
