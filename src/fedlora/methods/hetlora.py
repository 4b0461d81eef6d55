# SPDX-License-Identifier: Apache-2.0
"""HetLoRA: zero padding with weights by norm, and ranks that prune themselves."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

from fedlora.core.adapter import BOTH, SIDES, Adapter, AdapterSpec, first_slots
from fedlora.core.lowrank import LowRank
from fedlora.core.payload import Payload, branch, integer_at, tensors_at
from fedlora.core.penalties import Tail, tail_products
from fedlora.core.rounds import Client, Fit, Upload
from fedlora.core.schema import UploadSchema, whole_sides
from fedlora.core.slots import SlotAdder, whole
from fedlora.errors import MethodError
from fedlora.methods.base import Method, Outcome, Programme, State, move_to


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
    mixed_ranks: ClassVar[bool] = True

    penalty: float = 0.01
    """How much the tail costs."""
    keep: float = 0.99
    """The share of the slots that is no tail."""

    def __post_init__(self) -> None:
        if self.penalty < 0.0:
            raise MethodError(f"method.penalty is {self.penalty}; it must be at least 0.")
        if not 0.0 < self.keep <= 1.0:
            raise MethodError(f"method.keep is {self.keep}; it must be above 0 and at most 1.")

    def example_weighted(self) -> bool:
        """Clients count by the norm of what they learned, so that two halves count as two clients."""
        return False

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
        up: Payload = {side: first_slots("lora", side, trained.side(side), slots) for side in SIDES}
        return Outcome(up, {}, {"rank": rank})

    def aggregate(self, state: State, uploads: Iterable[Upload], round: int) -> State:
        """The mean of the padded factors, by norms."""
        by_norm, by_examples = SlotAdder(state.adapter), SlotAdder(state.adapter)
        ranks = dict(branch(state.extra, "ranks"))
        for upload in uploads:
            own = Adapter(tensors_at(upload.payload, "input"), tensors_at(upload.payload, "output"))
            norms = {module: product_norm(own.pair(module)) for module in own.input}
            by_norm.add(norms, whole(own))
            by_examples.add(upload.weight, whole(own))
            ranks[upload.client.id] = max(own.ranks().values())
        weighted, plain = by_norm.sums(), by_examples.sums()
        moved = {}
        for side in SIDES:
            even = plain.mean(side)
            means = {
                m: t / weighted.weight[m] if weighted.weight[m] else even[m] for m, t in weighted.totals[side].items()
            }
            moved[side] = plain.keep_unowned(side, means, state.adapter.side(side))
        return replace(move_to(state, moved), extra={**state.extra, "ranks": ranks})


def product_norm(pair: LowRank) -> float:
    """||B A||_F without forming B A: the root of trace((B^T B)(A A^T))."""
    A, B = pair.A.double(), pair.B.double()
    return float(((B.T @ B) * (A @ A.T)).sum().clamp(min=0.0).sqrt())


def _tail(adapter: Adapter, first: int) -> float:
    return sum(float(product) for product in tail_products(adapter, first).values())
