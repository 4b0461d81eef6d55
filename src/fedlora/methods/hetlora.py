# SPDX-License-Identifier: Apache-2.0
"""HetLoRA: zero padding with weights by norm, and ranks that prune themselves."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from fedlora.core.adapter import BOTH, SIDES, Adapter, AdapterSpec, first_slots
from fedlora.core.lowrank import LowRank
from fedlora.core.payload import Payload, branch, integer_at
from fedlora.core.penalties import Tail, tail_products
from fedlora.core.rounds import Client, Fit
from fedlora.core.schema import UploadSchema, whole_sides
from fedlora.core.settings import Range
from fedlora.core.slots import Part, SlotAdder, SlotSums
from fedlora.core.update import Update
from fedlora.methods.base import Method, Outcome, Programme, State, move_to
from fedlora.methods.facts import Facts
from fedlora.methods.reducers import Reducer, factors


@dataclass(frozen=True)
class HetLoRA(Method):
    """Pad with zeros, weigh every client's module by the norm of its product, prune ranks that are not used.

    Idea: a client whose update is large learned more; a client whose last slots fade has too many.
    Formula: A = sum_k p_k pad(A_k), B = sum_k p_k pad(B_k) with p_k proportional to ||B_k A_k||_F, module by
    module (to the number of examples where all products are zero). Training adds
    penalty ||A[c:]|| ||B[:, c:]|| with c = max(1, floor(keep r_k)); where that product, summed over the
    modules, fell in the round, the client's rank is c from then on.
    What travels: up r_k (d_in + d_out) a module, down the same; r_k falls.
    Mixed ranks: yes.
    Exact: no.
    Departures: a slot that nobody owned in the round keeps its value, as for zero padding. The tail's
    product is zero at the start, so that nobody prunes in its first round.
    Reference: Cho et al., Heterogeneous LoRA for Federated Fine-tuning, arXiv 2401.06432 (EMNLP 2024).
    """

    name: ClassVar[str] = "hetlora"

    penalty: Annotated[float, Range(at_least=0.0)] = 0.01
    """How much the tail costs."""
    keep: Annotated[float, Range(above=0.0, at_most=1.0)] = 0.99
    """The share of the slots that is no tail."""

    @property
    def facts(self) -> Facts:
        """Clients count by the norm of what they learned, so that two halves count as two clients."""
        return Facts(consumes="individual", mixed_ranks=True, example_weighted=False)

    def init(self, spec: AdapterSpec, seed: int) -> State:
        """Server: nobody has pruned yet."""
        return replace(super().init(spec, seed), extra={"ranks": {}})

    def rank(self, state: State, client: Client) -> int:
        """Server: what the client pruned itself to."""
        ranks = branch(state.extra, "ranks")
        return integer_at(ranks, client.id) if client.id in ranks else client.rank

    def upload_schema(self, state: State, client: Client, spec: AdapterSpec, round: int) -> UploadSchema:
        """Server: both sides at the client's rank, or without its tail."""
        ranks = sorted({client.rank, self.first(client)}, reverse=True)
        return UploadSchema(tuple(whole_sides(spec, BOTH, dict.fromkeys(spec.shapes, rank)) for rank in ranks))

    def first(self, client: Client) -> int:
        """Client (and server): c, the number of slots that are no tail."""
        return max(1, int(self.keep * client.rank))

    def client(self, payload: Payload, kept: Payload, client: Client, spec: AdapterSpec, round: int) -> Programme:
        """Client: train against the tail, and leave it out where it fell."""
        start = self.receive(payload, kept, client, spec)
        first = self.first(client)
        fitted = yield Fit(start, BOTH, penalties=(Tail(self.penalty, first),))
        trained = fitted.start.adapter
        rank = first if _tail(trained, first) < _tail(start.adapter, first) else client.rank
        slots = dict.fromkeys(trained.output, rank)
        sides: Part = {side: first_slots("lora", side, trained.side(side), slots) for side in SIDES}
        return Outcome(Update(client, sides), notes={"rank": rank})

    def reducer(self, state: State, round: int) -> Reducer["Sums"]:
        """Server: sums by norms and by examples, and the ranks that came."""
        return ByNorm(state.adapter)

    def advance(self, state: State, total: "Sums", round: int) -> State:
        """Server: the mean of the padded factors, by norms."""
        by_norm, by_examples = total.by_norm, total.by_examples
        moved = {}
        for side in SIDES:
            even = by_examples.mean(side)
            means = {
                m: t / by_norm.weight[m] if by_norm.weight[m] else even[m] for m, t in by_norm.totals[side].items()
            }
            moved[side] = by_examples.keep_unowned(side, means, state.adapter.side(side))
        ranks: Payload = {**branch(state.extra, "ranks"), **total.ranks}
        return replace(move_to(state, moved), extra={**state.extra, "ranks": ranks})


@dataclass(frozen=True, slots=True)
class Sums:
    """What HetLoRA's server adds up."""

    by_norm: SlotSums
    """Every client's module weighted by the norm of its product."""
    by_examples: SlotSums
    """Weighted by examples."""
    ranks: dict[str, int]
    """Client -> the rank that it sent."""


class ByNorm:
    """HetLoRA's reducer."""

    def __init__(self, like: Adapter) -> None:
        self._by_norm, self._by_examples = SlotAdder(like), SlotAdder(like)
        self._ranks: dict[str, int] = {}

    def add(self, update: Update) -> None:
        """Add one client's factors under both weights."""
        adapter = factors(update)
        self._by_norm.add({module: product_norm(adapter.pair(module)) for module in adapter.input}, update.sides)
        self._by_examples.add(update.weight, update.sides)
        self._ranks[update.client.id] = max(adapter.ranks().values())

    def total(self) -> Sums:
        """Both sums, and the ranks."""
        return Sums(self._by_norm.sums(), self._by_examples.sums(), self._ranks)


def product_norm(pair: LowRank) -> float:
    """||B A||_F without forming B A: the root of trace((B^T B)(A A^T))."""
    A, B = pair.A.double(), pair.B.double()
    return float(((B.T @ B) * (A @ A.T)).sum().clamp(min=0.0).sqrt())


def _tail(adapter: Adapter, first: int) -> float:
    return sum(float(product) for product in tail_products(adapter, first).values())
