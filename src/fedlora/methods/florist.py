# SPDX-License-Identifier: Apache-2.0
"""FLoRIST: keep as many singular values of the average as hold most of its energy."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from fedlora.core.adapter import BOTH, Adapter, AdapterSpec, Start
from fedlora.core.kinds import fresh_rows
from fedlora.core.lowrank import LowRank, singular
from fedlora.core.payload import Payload, branch, integer_at
from fedlora.core.products import ProductSums
from fedlora.core.rounds import Client
from fedlora.core.schema import UploadSchema, whole_sides
from fedlora.core.seeds import torch_stream
from fedlora.core.settings import Range
from fedlora.methods.base import Method, State, refactorized
from fedlora.methods.facts import Facts
from fedlora.methods.reducers import ProductSum, Reducer


@dataclass(frozen=True)
class FLoRIST(Method):
    """The average of the products, at the rank that it needs, module by module.

    Idea: the average of many products has few large singular values; sending only those saves the way
    down.
    Formula: U S V^T = sum_k w_k B_k A_k; r* is the smallest number of singular values whose squares make up
    the share `energy` of all; B = U S, A = V^T with r* slots. Client k takes the first min(r_k, r*) and
    fills up to r_k with fresh rows of A and zero columns of B, drawn from (seed, round, client).
    What travels: up r_k (d_in + d_out) a module, down min(r_k, r*) (d_in + d_out).
    Mixed ranks: yes.
    Exact: before truncation.
    Departures: the paper leaves open which energy; here that of the squares. It fills up with nothing, so
    that ranks would only ever fall.
    Reference: Ramesh & Seo, FLoRIST, arXiv 2506.09199.
    """

    name: ClassVar[str] = "florist"

    energy: Annotated[float, Range(above=0.0, at_most=1.0)] = 0.9
    """The share of the sum of squared singular values that is kept, in (0, 1]."""

    @property
    def facts(self) -> Facts:
        """The server splits the mean of the products anew; clients draw what they lack."""
        return Facts(
            consumes="product sums",
            exact="before truncation",
            mixed_ranks=True,
            refactorizes=True,
            supports_server_optimizer=False,
            common_start=False,
        )

    def init(self, spec: AdapterSpec, seed: int) -> State:
        """Server: a fresh adapter, and the seed from which clients draw."""
        return replace(super().init(spec, seed), extra={"seed": seed})

    def dispatched_ranks(self, state: State, client: Client) -> Mapping[str, int]:
        """Server: the client's rank, where there are as many slots."""
        return {module: min(client.rank, rank) for module, rank in state.adapter.ranks().items()}

    def upload_schema(self, state: State, client: Client, spec: AdapterSpec, round: int) -> UploadSchema:
        """Server: both sides, filled up to the client's rank."""
        return UploadSchema((whole_sides(spec, BOTH, dict.fromkeys(spec.shapes, client.rank)),))

    def dispatch(self, state: State, client: Client, round: int) -> Payload:
        """Server: the first slots, and from which stream to draw the rest."""
        draw = {"seed": integer_at(state.extra, "seed"), "round": round}
        return {**super().dispatch(state, client, round), "draw": draw}

    def receive(self, payload: Payload, kept: Payload, client: Client, spec: AdapterSpec) -> Start:
        """Client: what came, filled up to the client's rank."""
        start, draw = super().receive(payload, kept, client, spec), branch(payload, "draw")
        name = ("florist", integer_at(draw, "round"), client.id)
        seed = integer_at(draw, "seed")
        inputs, outputs = {}, {}
        for module, shape in spec.shapes.items():
            A, B = start.adapter.input[module], start.adapter.output[module]
            rows = fresh_rows(shape, client.rank - A.shape[0], torch_stream(seed, *name, module))
            inputs[module] = torch.cat([A, rows])
            outputs[module] = torch.cat([B, B.new_zeros(B.shape[0], rows.shape[0])], dim=1)
        return Start(Adapter(inputs, outputs))

    def reducer(self, state: State, round: int) -> Reducer[ProductSums]:
        """Server: sums of the products."""
        return ProductSum(state.adapter)

    def advance(self, state: State, total: ProductSums, round: int) -> State:
        """Server: the mean of the products, cut where its energy is."""
        return refactorized(state, {module: self.cut(product) for module, product in total.mean().items()})

    def cut(self, product: LowRank | Tensor) -> LowRank:
        """The first r* singular values and vectors of one module's mean, at least one."""
        U, S, Vh = singular(product)
        energy = S.square().cumsum(dim=0)
        kept = 1 + int((energy < self.energy * energy[-1] * (1.0 - 1e-12)).sum())
        return LowRank(Vh[:kept], U[:, :kept] * S[:kept])
