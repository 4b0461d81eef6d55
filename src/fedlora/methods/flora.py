# SPDX-License-Identifier: Apache-2.0
"""FLoRA: stack everyone's factors, put the product into the base, start again."""

from dataclasses import dataclass, replace
from typing import ClassVar

from fedlora.core.adapter import NEITHER, AdapterSpec, Sides, Start
from fedlora.core.kinds import fresh_rows
from fedlora.core.lowrank import LowRank
from fedlora.core.merged import cheaper, in_float32
from fedlora.core.payload import Payload, branch, integer_at
from fedlora.core.products import ProductSums
from fedlora.core.rounds import Client
from fedlora.core.seeds import torch_stream
from fedlora.methods.base import State
from fedlora.methods.facts import Facts
from fedlora.methods.merging import Merging
from fedlora.methods.reducers import ProductSum, Reducer


@dataclass(frozen=True)
class FLoRA(Merging):
    """Average the products without loss by stacking factors, and merged update the stack into the base.

    Idea: a stack of factors multiplies out to the sum of the products, with no cross schema and whatever
    the ranks.
    Formula: A = [w_1 A_1; w_2 A_2; ...], B = [B_1, B_2, ...]; W += s B A; every client begins the next round
    with B = 0 and an A of its own, drawn from (seed, round, client).
    What travels: up r_k (d_in + d_out) a module; down sum_k r_k (d_in + d_out), of every round that the client
    missed, or the dense sum where that is cheaper.
    Mixed ranks: yes.
    Exact: update.
    Departures: the base itself is never changed: the total since W0 is kept beside it, in float32 on any
    wire. A is drawn by name, so that it need not travel.
    Reference: Wang et al., FLoRA, arXiv 2409.05976 (NeurIPS 2024).
    """

    name: ClassVar[str] = "flora"

    @property
    def facts(self) -> Facts:
        """Every client draws its factors anew, and everyone is sent the stack of all."""
        return replace(super().facts, mixed_ranks=True, common_start=False)

    def init(self, spec: AdapterSpec, seed: int) -> State:
        """Server: nothing is merged yet; factors are made by clients. An adapter to go on from is merged."""
        state = super().init(spec, seed)
        begun = {m: LowRank(A, state.adapter.output[m]) for m, A in state.adapter.input.items()}
        moved = {module: pair for module, pair in begun.items() if bool(pair.B.any())}
        state = replace(state, extra={**state.extra, "seed": seed})
        if moved:
            state = self.with_merged(state, moved, 1)
            state = replace(state, extra={**state.extra, "steps": {}, "since": 2})
        blank = {module: B.new_zeros(B.shape) for module, B in state.adapter.output.items()}
        return replace(state, adapter=state.adapter.with_side("output", blank))

    def down(self, round: int) -> Sides:
        """Server: no side; the merged update alone."""
        return NEITHER

    def dispatch(self, state: State, client: Client, round: int) -> Payload:
        """Server: what the client lacks of the merged update, and from which stream to draw A."""
        draw = {"seed": integer_at(state.extra, "seed"), "round": round}
        return {**self.missing(state, client), "draw": draw}

    def receive(self, payload: Payload, kept: Payload, client: Client, spec: AdapterSpec) -> Start:
        """Client: fresh factors on the merged update."""
        draw = branch(payload, "draw")
        name = ("flora", integer_at(draw, "round"), client.id)
        seed = integer_at(draw, "seed")
        A = {m: fresh_rows(shape, client.rank, torch_stream(seed, *name, m)) for m, shape in spec.shapes.items()}
        return super().receive({**payload, "input": A}, kept, client, spec)

    def reducer(self, state: State, round: int) -> Reducer[ProductSums]:
        """Server: the factors, stacked."""
        return ProductSum(state.adapter)

    def advance(self, state: State, total: ProductSums, round: int) -> State:
        """Server: the weighted stack, merged in."""
        step = {module: cheaper(in_float32(product)) for module, product in total.mean().items()}
        return self.with_merged(state, step, round)
