"""What goes wrong in a case, and what passes between server and clients; for the code as of 7702f80."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from capture import Recorder
from semantic_before import record_payload
from torch import Tensor

from fedlora.app.build import Simulation
from fedlora.core.adapter import AdapterSpec, Tensors
from fedlora.core.parcel import Parcel, from_bytes, to_bytes
from fedlora.core.rounds import Client, Failure, FitJob, Fitted, Order, Reply, Score, ScoreJob, Trainer
from fedlora.federation.memories import HeldMemories
from fedlora.federation.transport import Transport

Planned = frozenset[tuple[str, int, str]]
"""(event, round, client id)."""


@dataclass(frozen=True)
class Troubled:
    """A trainer that fails where a case says so."""

    inner: Trainer
    planned: Planned

    @property
    def spec(self) -> AdapterSpec:
        return self.inner.spec

    @property
    def head(self) -> Tensors:
        return self.inner.head

    def fit(self, jobs: Sequence[FitJob]) -> list[Fitted | Failure]:
        if any(("trainer raises", job.round, job.client) in self.planned for job in jobs):
            raise RuntimeError("planted")
        answers = list(self.inner.fit(jobs))
        for number, job in enumerate(jobs):
            if ("diverged", job.round, job.client) in self.planned:
                answers[number] = Failure(job.client, job.round, "the loss is nan at step 1 of 2", diverged=True)
        return answers

    def score(self, jobs: Sequence[ScoreJob]) -> list[Score | Failure]:
        return list(self.inner.score(jobs))


@dataclass(frozen=True)
class Recording:
    """A transport that records what passes, and loses or spoils replies where a case says so."""

    inner: Transport
    out: Recorder
    planned: Planned

    def roster(self) -> Sequence[Client]:
        return self.inner.roster()

    def exchange(self, orders: Sequence[Order]) -> Iterator[Reply | Failure]:
        for order in orders:
            self._record_order(order)
        kinds = {order.client.id: order.kind for order in orders}
        for answer in self.inner.exchange(orders):
            if kinds[answer.client] == "evaluate":
                yield answer
                continue
            place = self.out.under(f"round{answer.round}", answer.client)
            if isinstance(answer, Reply):
                place.count("steps", answer.steps)
                spoiled = ("not finite", answer.round, answer.client) in self.planned
                parcel = _spoiled(answer.parcel) if spoiled else answer.parcel
                record_payload(place.under("up"), parcel)
            if ("lost reply", answer.round, answer.client) not in self.planned:
                yield replace(answer, parcel=parcel) if isinstance(answer, Reply) else answer

    def _record_order(self, order: Order) -> None:
        training = order.kind == "train"
        completed = order.round if training else order.round - 1
        place = self.out.under(f"round{completed}", order.client.id, "down" if training else "evaluate_down")
        record_payload(place, from_bytes(to_bytes(order.parcel)))
        client = order.client
        place.under("client").tree({"examples": client.examples, "rank": client.rank, "seen": client.seen})


def _spoiled(parcel: Parcel) -> Parcel:
    def spoiled(tree: Any) -> Any:
        if isinstance(tree, Tensor):
            return torch.full_like(tree, float("nan")) if tree.is_floating_point() else tree
        return {key: spoiled(value) for key, value in tree.items()} if isinstance(tree, dict) else tree

    return {key: spoiled(value) for key, value in parcel.items()}


def forget(simulation: Simulation, planned: Planned, round: int) -> None:
    """Take away the stored state of those who lose it after a round."""
    lost = {client for event, at, client in planned if event == "lost memory" and at == round}
    memories = simulation.transport.memories
    if lost and isinstance(memories, HeldMemories):
        kept = {client: own for client, own in memories.all().items() if client not in lost}
        simulation.transport.memories = HeldMemories(kept)
