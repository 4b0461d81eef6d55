"""Wrappers and client programmes at work on the stand-in problem, and what they refuse."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from fedlora.methods.wrap import Clip, FedAdam, FedAvgM, FedProx

from fedlora.core.adapter import BOTH, INPUT, OUTPUT, AdapterSpec
from fedlora.core.penalties import Proximal, Tail
from fedlora.core.rounds import Client, FitJob
from fedlora.errors import MethodError
from fedlora.federation.local import LocalTransport
from fedlora.federation.server import Federation, Plan, begin, federate
from fedlora.laws.standin import StandIn
from fedlora.methods import BUILT_IN
from fedlora.methods.fedit import FedIT
from fedlora.methods.fedsa import FedSA
from fedlora.methods.ffa import FFA
from fedlora.methods.hetlora import HetLoRA
from fedlora.methods.lora_a2 import LoRAA2
from fedlora.methods.replicate import Replicate
from fedlora.methods.rolora import RoLoRA

SHAPES = {"a": (5, 7), "b": (6, 4)}
SPEC = AdapterSpec(SHAPES, 3, 1.0)


def run(method, rounds=3, clients=4, ranks=(3,), spec=SPEC, rate=0.01, **plan):
    trainer = StandIn(spec, 1, rate=rate)
    roster = tuple(Client(f"c{k}", 2 + k, ranks[k % len(ranks)]) for k in range(clients))
    own = Federation(method, spec, LocalTransport(roster, method, trainer), Plan(rounds, **plan), trainer)
    server = begin(own, trainer.head)
    return [server, *(server for server, _ in federate(own, server))], own


def states(method, **others):
    return [server.state.adapter for server in run(method, **others)[0]]


def moved(one, other):
    return sum(float((other.side(s)[m] - one.side(s)[m]).norm()) for s in ("input", "output") for m in SHAPES)


def test_fedprox_holds_clients_back():
    """mu = 0 changes no bit; the harder the pull, the shorter the way."""
    plain, zero = states(FedIT()), states(FedProx(FedIT(), mu=0.0))
    assert all(torch.equal(plain[-1].output[m], zero[-1].output[m]) for m in SHAPES)
    ways = [moved(*states(FedProx(FedIT(), mu=mu), rounds=1)) for mu in (0.0, 10.0, 50.0)]
    assert ways[0] > ways[1] > ways[2] > 0


def asked(method):
    """The fits that a client's half asks for in round 1, and how it ends."""
    client, trainer, fits = Client("c0", 3, 2), StandIn(SPEC, 1), []
    programme = method.client(method.dispatch(method.init(SPEC, 0), client, 1), {}, client, SPEC, 1)
    fit = next(programme)
    while True:
        fits.append(fit)
        (fitted,) = trainer.fit([FitJob("c0", 1, fit)])
        try:
            fit = programme.send(fitted)
        except StopIteration as stop:
            return fits, stop.value


def test_fedprox_acts_on_every_fit_and_on_shared_sides_only():
    for method, count, sides in ((FedIT(), 1, BOTH), (FedSA(), 1, INPUT), (LoRAA2(pool_rank=3), 2, OUTPUT)):
        fits, _ = asked(FedProx(method, mu=0.3))
        assert [fit.penalties for fit in fits] == [(Proximal(0.3, sides),)] * count
    fits, _ = asked(FedProx(HetLoRA(), mu=0.3))
    assert [type(own) for own in fits[0].penalties] == [Tail, Proximal]


@pytest.mark.parametrize("method", [FedIT(), FFA(), LoRAA2(pool_rank=3), HetLoRA(), Replicate()], ids=lambda m: m.name)
def test_clipping_bounds_every_change(method):
    """With one client the global change is the client's own: as long as the norm, or as it was where shorter."""
    loose = states(method, rounds=1, clients=1)
    length = sum(
        float((loose[1].side(s)[m] - loose[0].side(s)[m]).square().sum()) for s in ("input", "output") for m in SHAPES
    )
    for norm, expected in ((length**0.5 / 2, length**0.5 / 2), (length**0.5 * 2, length**0.5)):
        start, end = states(Clip(method, norm=norm), rounds=1, clients=1)
        squares = sum(
            float((end.side(s)[m] - start.side(s)[m]).square().sum()) for s in ("input", "output") for m in SHAPES
        )
        assert squares**0.5 == pytest.approx(expected, rel=1e-4)


def test_momentum_by_hand():
    """Two rounds of FedAvgM: the second step is the second change plus 0.9 of the first."""
    optimizer = FedAvgM(FedIT())
    change = torch.tensor([[1.0, -2.0]])
    step, kept = optimizer.step(change, {"first": torch.zeros(1, 2)})
    assert step.tolist() == [[1.0, -2.0]]
    step, kept = optimizer.step(change, kept)
    torch.testing.assert_close(step, torch.tensor([[1.9, -3.8]]))
    step, _ = replace(optimizer, lr=0.5).step(change, {"first": torch.zeros(1, 2)})
    assert step.tolist() == [[0.5, -1.0]]


def test_adam_by_hand():
    """m = 0.1 * 2, v = 0.01 * 4: 0.5 * 0.2 / (0.2 + 0.3) = 0.2."""
    optimizer = FedAdam(FedIT(), lr=0.5, tau=0.3)
    step, kept = optimizer.step(torch.tensor([2.0]), {"first": torch.zeros(1), "second": torch.zeros(1)})
    assert step.item() == pytest.approx(0.2)
    assert kept["first"].item() == pytest.approx(0.2)
    assert kept["second"].item() == pytest.approx(0.04)


def test_momentum_without_memory_is_the_inner_method():
    plain, wrapped = states(RoLoRA()), states(FedAvgM(RoLoRA(), momentum=0.0))
    for module in SHAPES:
        torch.testing.assert_close(plain[-1].input[module], wrapped[-1].input[module])
        torch.testing.assert_close(plain[-1].output[module], wrapped[-1].output[module])


@pytest.mark.parametrize("optimizer", [FedAvgM, FedAdam])
def test_what_nobody_sent_does_not_move(optimizer):
    """A frozen side, and slots outside everyone's choice, whatever their moments."""
    sequence = states(optimizer(RoLoRA()), rounds=4)
    for number, (before, after) in enumerate(pairwise(sequence), start=1):
        still = "input" if number % 2 else "output"
        assert all(before.side(still)[m].equal(after.side(still)[m]) for m in SHAPES)
    servers, own = run(optimizer(LoRAA2(pool_rank=3)), rounds=3, ranks=(1,), clients=1)
    assert len(servers) == 4
    chosen = own.transport.client_states.latest("c0")
    assert chosen is not None
    for before, after in pairwise(servers):
        for module in SHAPES:
            change = after.state.adapter.output[module] - before.state.adapter.output[module]
            assert int(change.ne(0).any(dim=0).sum()) <= 2  # a budget of 1 over 2 modules


@pytest.mark.parametrize("name", ["flexlora", "florist", "fedsvd", "flora", "fedex", "fair", "local"])
def test_where_moments_make_no_sense(name):
    for optimizer in (FedAvgM, FedAdam):
        with pytest.raises(MethodError, match=f"does not go around {name}.*such as fedit"):
            optimizer(BUILT_IN[name]())


def test_where_there_is_nothing_to_clip():
    for name in ("flora", "florist"):
        with pytest.raises(MethodError, match=f"clip does not go around {name}"):
            Clip(BUILT_IN[name]())


def test_promotion():
    """Round 1 asks everyone at the starting rank; then the best half has its own rank, whoever is drawn."""
    scores = {}

    class Listening(Replicate):
        def aggregate(self, state, uploads, round):
            own = list(uploads)
            scores.update({upload.client.id: upload.payload["score"] for upload in own if "score" in upload.payload})
            return super().aggregate(state, iter(own), round)

    method = Listening(promote=0.5, start_rank=1)
    servers, own = run(method, rounds=3, clients=4, per_round=2)
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
    servers, own = run(HetLoRA(penalty=30.0, keep=0.7), rounds=6, clients=3)
    ranks = [dict(server.state.extra["ranks"]) for server in servers]
    assert set(ranks[1].values()) == {3}  # at the start the tail is zero and cannot fall
    assert min(ranks[-1].values()) < 3
    assert min(ranks[-1].values()) >= 1
    for before, after in pairwise(ranks[1:]):
        assert all(after[client] <= before[client] for client in before)
    sent = own.method.dispatch(servers[-1].state, replace(own.transport.roster()[0], rank=2), 7)
    assert sent["input"]["a"].shape[0] == min(2, ranks[-1]["c0"])


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
