"""Unusual client programmes and servers at work on the stand-in problem."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from fedlora.core.adapter import AdapterSpec
from fedlora.core.rounds import Client
from fedlora.federation.local import LocalTransport
from fedlora.federation.pipeline import Pipeline
from fedlora.federation.server import Federation, Plan, begin, federate
from fedlora.federation.settings import ClientsSettings
from fedlora.laws.standin import StandIn
from fedlora.methods.hetlora import HetLoRA
from fedlora.methods.lora_a2 import LoRAA2
from fedlora.methods.replicate import Replicate

SHAPES = {"a": (5, 7), "b": (6, 4)}
SPEC = AdapterSpec(SHAPES, 3, 1.0)


def run(pipeline, rounds=3, clients=4, ranks=(3,), spec=SPEC, rate=0.01, plan=None):
    trainer = StandIn(spec, 1, rate=rate)
    roster = tuple(Client(f"c{k}", 2 + k, ranks[k % len(ranks)]) for k in range(clients))
    own = Federation(pipeline, spec, LocalTransport(roster, pipeline, trainer), plan or Plan(rounds), trainer)
    server = begin(own, trainer.head)
    return [server, *(server for server, _ in federate(own, server))], own


def test_promotion():
    """Round 1 asks everyone at the starting rank; then the best half has its own rank, whoever is drawn."""
    scores = {}

    class Listening(Replicate):
        def aggregate(self, state, updates, round):
            sent = list(updates)
            scores.update({update.client.id: update.numbers["score"] for update in sent if update.numbers})
            return super().aggregate(state, iter(sent), round)

    method = Listening(promote=0.5, start_rank=1)
    servers, own = run(Pipeline(method), rounds=3, clients=4, plan=Plan(3, clients=ClientsSettings(per_round=2)))
    first, later = servers[1], servers[3]
    assert set(first.last_seen_rounds) == set(scores) == {"c0", "c1", "c2", "c3"}
    promoted = sorted(sorted(scores, key=lambda client: (-scores[client], client))[:2])
    assert first.state.extra["promoted"] == later.state.extra["promoted"] == promoted
    ranks = {client.id: method.rank(later.state, client) for client in own.transport.roster()}
    assert ranks == {client: 3 if client in promoted else 1 for client in scores}
    for module in SHAPES:  # slots above the starting rank began fresh: their rows of A are the first state's
        start, end = servers[0].state.adapter, first.state.adapter
        assert start.input[module][1:].equal(end.input[module][1:])
        assert not end.output[module][:, 1:].any()


def test_hetlora_prunes_only_where_the_tail_fell():
    """A strong penalty shrinks the tail slot's product, and ranks fall, never below one; without a tail never."""
    servers, own = run(Pipeline(HetLoRA(penalty=30.0, keep=0.7)), rounds=6, clients=3)
    ranks = [dict(server.state.extra["ranks"]) for server in servers]
    assert set(ranks[1].values()) == {3}  # at the start the tail is zero and cannot fall
    assert min(ranks[-1].values()) < 3
    assert min(ranks[-1].values()) >= 1
    for before, after in pairwise(ranks[1:]):
        assert all(after[client] <= before[client] for client in before)
    client = own.transport.roster()[0]
    now = replace(client, rank=own.method.rank(servers[-1].state, client))
    assert own.method.dispatch(servers[-1].state, now, 7)["input"]["a"].shape[0] == ranks[-1]["c0"]


@pytest.mark.parametrize("wire", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("criterion", ["contribution", "contribution-per-byte", "magnitude"])
def test_byte_budgets_are_kept(wire, criterion):
    """Vectors and slot numbers of what is sent, in bytes, at most the budget; and near it."""
    method, client = LoRAA2(pool_rank=6, bytes_per_round=60, criterion=criterion), Client("c0", 3, 2)
    spec = replace(SPEC, wire=wire)
    draw = torch.Generator().manual_seed(1)
    scores = {module: torch.rand(6, generator=draw) for module in SHAPES}
    masks = method.choose(scores, "output", client, spec)
    sent = sum(int(mask.sum()) * (SHAPES[module][0] * wire.itemsize + 1) for module, mask in masks.items())
    assert 60 - (6 * wire.itemsize + 1) < sent <= 60


def test_a_budget_per_byte_is_what_the_slots_of_every_module_cost():
    """Without a number of bytes: budget 2 on B sides of 5 and 6 floats is 2 * (21 + 25) bytes."""
    method, client = LoRAA2(pool_rank=6, criterion="contribution-per-byte"), Client("c0", 3, 2)
    scores = {"a": torch.full((6,), 2.0), "b": torch.full((6,), 1.0)}
    masks = method.choose(scores, "output", client, SPEC)
    assert {module: int(mask.sum()) for module, mask in masks.items()} == {"a": 4, "b": 0}  # 84 of 92 bytes
