"""Stages at work on the stand-in problem, and what they refuse."""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import pytest
import torch

from fedlora.core.adapter import BOTH, INPUT, OUTPUT, AdapterSpec
from fedlora.core.payload import from_bytes, to_bytes
from fedlora.core.penalties import Proximal, Tail
from fedlora.core.rounds import Client, Order
from fedlora.errors import MethodError
from fedlora.federation.client import serve
from fedlora.federation.client_states import HeldClientStates, StoredClientStates
from fedlora.federation.local import LocalTransport
from fedlora.federation.pipeline import Pipeline
from fedlora.federation.server import Federation, Plan, Server, begin, federate
from fedlora.federation.stages import STAGES, find_stage
from fedlora.federation.stages.base import Stage
from fedlora.federation.stages.clip import Clip
from fedlora.federation.stages.proximal import FedProx
from fedlora.federation.stages.server_optimizer import FedAdam, FedAvgM
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


def run(pipeline, rounds=3, clients=4, ranks=(3,), spec=SPEC, rate=0.01, **plan):
    trainer = StandIn(spec, 1, rate=rate)
    roster = tuple(Client(f"c{k}", 2 + k, ranks[k % len(ranks)]) for k in range(clients))
    own = Federation(pipeline, spec, LocalTransport(roster, pipeline, trainer), Plan(rounds, **plan), trainer)
    server = begin(own, trainer.head)
    return [server, *(server for server, _ in federate(own, server))], own


def states(method, *stages, **others):
    return [server.state.adapter for server in run(Pipeline(method, stages), **others)[0]]


def moved(one, other):
    return sum(float((other.side(s)[m] - one.side(s)[m]).norm()) for s in ("input", "output") for m in SHAPES)


def test_fedprox_holds_clients_back():
    """mu = 0 changes no bit; the harder the pull, the shorter the way."""
    plain, zero = states(FedIT()), states(FedIT(), FedProx(mu=0.0))
    assert all(torch.equal(plain[-1].output[m], zero[-1].output[m]) for m in SHAPES)
    ways = [moved(*states(FedIT(), FedProx(mu=mu), rounds=1)) for mu in (0.0, 10.0, 50.0)]
    assert ways[0] > ways[1] > ways[2] > 0


def asked(method, *stages):
    """The fits that are asked of the trainer in round 1 of one client."""
    client, fits = Client("c0", 3, 2), []

    class Listening(StandIn):
        def fit(self, jobs):
            fits.extend(job.fit for job in jobs)
            return super().fit(jobs)

    order = Order("train", 1, client, {"adapter": method.dispatch(method.init(SPEC, 0), client, 1)})
    serve([order], {}, Pipeline(method, stages), Listening(SPEC, 1))
    return fits


def test_fedprox_acts_on_every_fit_and_on_shared_sides_only():
    for method, count, sides in ((FedIT(), 1, BOTH), (FedSA(), 1, INPUT), (LoRAA2(pool_rank=3), 2, OUTPUT)):
        fits = asked(method, FedProx(mu=0.3))
        assert [fit.penalties for fit in fits] == [(Proximal(0.3, sides),)] * count
    fits = asked(HetLoRA(), FedProx(mu=0.3))
    assert [type(own) for own in fits[0].penalties] == [Tail, Proximal]


@pytest.mark.parametrize("method", [FedIT(), FFA(), LoRAA2(pool_rank=3), HetLoRA(), Replicate()], ids=lambda m: m.name)
def test_clipping_bounds_every_change(method):
    """With one client the global change is the client's own: as long as the norm, or as it was where shorter."""
    loose = states(method, rounds=1, clients=1)
    length = sum(
        float((loose[1].side(s)[m] - loose[0].side(s)[m]).square().sum()) for s in ("input", "output") for m in SHAPES
    )
    for norm, expected in ((length**0.5 / 2, length**0.5 / 2), (length**0.5 * 2, length**0.5)):
        start, end = states(method, Clip(norm=norm), rounds=1, clients=1)
        squares = sum(
            float((end.side(s)[m] - start.side(s)[m]).square().sum()) for s in ("input", "output") for m in SHAPES
        )
        assert squares**0.5 == pytest.approx(expected, rel=1e-4)


def test_momentum_by_hand():
    """Two rounds of FedAvgM: the second step is the second change plus 0.9 of the first."""
    optimizer = FedAvgM()
    change = torch.tensor([[1.0, -2.0]])
    step, kept = optimizer.move(change, {"first": torch.zeros(1, 2)})
    assert step.tolist() == [[1.0, -2.0]]
    step, kept = optimizer.move(change, kept)
    torch.testing.assert_close(step, torch.tensor([[1.9, -3.8]]))
    step, _ = replace(optimizer, lr=0.5).move(change, {"first": torch.zeros(1, 2)})
    assert step.tolist() == [[0.5, -1.0]]


def test_adam_by_hand():
    """m = 0.1 * 2, v = 0.01 * 4: 0.5 * 0.2 / (0.2 + 0.3) = 0.2."""
    optimizer = FedAdam(lr=0.5, tau=0.3)
    step, kept = optimizer.move(torch.tensor([2.0]), {"first": torch.zeros(1), "second": torch.zeros(1)})
    assert step.item() == pytest.approx(0.2)
    assert kept["first"].item() == pytest.approx(0.2)
    assert kept["second"].item() == pytest.approx(0.04)


def test_momentum_without_memory_is_the_method_alone():
    plain, wrapped = states(RoLoRA()), states(RoLoRA(), FedAvgM(momentum=0.0))
    for module in SHAPES:
        torch.testing.assert_close(plain[-1].input[module], wrapped[-1].input[module])
        torch.testing.assert_close(plain[-1].output[module], wrapped[-1].output[module])


@pytest.mark.parametrize("optimizer", [FedAvgM, FedAdam])
def test_what_nobody_sent_does_not_move(optimizer):
    """A frozen side, and slots outside everyone's choice, whatever their moments."""
    sequence = states(RoLoRA(), optimizer(), rounds=4)
    for number, (before, after) in enumerate(pairwise(sequence), start=1):
        still = "input" if number % 2 else "output"
        assert all(before.side(still)[m].equal(after.side(still)[m]) for m in SHAPES)
    servers, own = run(Pipeline(LoRAA2(pool_rank=3), (optimizer(),)), rounds=3, ranks=(1,), clients=1)
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
        with pytest.raises(MethodError, match=f"does not go with {name}.*such as fedit"):
            Pipeline(BUILT_IN[name](), (optimizer(),))


def test_where_there_is_nothing_to_clip():
    for name in ("flora", "florist"):
        with pytest.raises(MethodError, match=f"clip does not go with {name}"):
            Pipeline(BUILT_IN[name](), (Clip(),))


def test_clipping_takes_the_head_along():
    """Shared head, one client: sides and head together move by the norm, both in the proportion in which they moved."""
    shared = replace(SPEC, head="shared")

    def way(*stages):
        servers, _ = run(Pipeline(FedIT(), stages), rounds=1, clients=1, spec=shared)
        start, end = (server.state for server in servers)
        return moved(start.adapter, end.adapter), float((end.head["head"] - start.head["head"]).norm())

    sides, head = way()
    norm = 0.1 * head
    clipped_sides, clipped_head = way(Clip(norm=norm))
    assert clipped_head < norm < head
    assert clipped_head / head == pytest.approx(clipped_sides / sides, rel=1e-3)


def test_a_median_takes_the_head_along():
    """Three clients' heads: the median is one of theirs in every number, and not the mean."""
    shared = replace(SPEC, head="shared")
    (_, mean), _ = run(Pipeline(FedIT()), rounds=1, clients=3, spec=shared)
    (start, median), own = run(Pipeline(FedIT(centre="median")), rounds=1, clients=3, spec=shared)
    sent = []
    for client in own.transport.roster():
        _, target = own.scorer._data(client.id)
        head = start.state.head["head"]
        for _ in range(2):
            head = head - own.scorer.rate * (head - target)
        sent.append(head)
    expected = torch.stack(sent).median(dim=0).values
    torch.testing.assert_close(median.state.head["head"], expected)
    assert not torch.allclose(mean.state.head["head"], expected)


@dataclass(frozen=True)
class Halves(Stage):
    """Clients send half of what is due, and the other half in the next round; the server counts the rounds."""

    name: ClassVar[str] = "halves"

    def facts(self, facts):
        return replace(facts.inexact(), needs_client_state=True, idempotence_tolerance=None)

    def outgoing(self, update, kept):
        due = update.scaled(1.0)
        if kept:
            due = due.plus(replace(update, sides={s: kept.get(s, {}) for s in update.sides}, head={}))
        sent = due.scaled(0.5)
        return sent, {side: due.minus(sent).sides[side] for side in update.sides}

    def step(self, before, after, kept):
        return after, {"rounds": kept.get("rounds", 0) + 1}


def test_the_state_of_stages_survives_at_both_ends(tmp_path):
    """A run that is cut after every round, and goes on from bytes and files, has the same bits; the state matters."""
    pipeline, trainer = Pipeline(RoLoRA(), (FedProx(), Halves(), FedAvgM())), StandIn(SPEC, 1)
    roster = tuple(Client(f"c{k}", 2 + k, 3) for k in range(3))

    def federation(client_states, rounds):
        transport = LocalTransport(roster, pipeline, trainer, client_states=client_states)
        return Federation(pipeline, SPEC, transport, Plan(rounds), trainer)

    whole = federation(HeldClientStates(), 4)
    *_, (expected, _) = federate(whole, begin(whole, trainer.head))
    server = begin(whole, trainer.head)
    for round in range(1, 5):
        own = federation(StoredClientStates(tmp_path / "states", until=round - 1), round)
        ((server, _),) = federate(own, server)
        server = Server.from_payload(from_bytes(to_bytes(server.to_payload())))
    assert to_bytes(server.to_payload()) == to_bytes(expected.to_payload())
    assert server.state.stages["1"] == {"rounds": 4}
    assert set(server.state.stages) == {"1", "2"}
    forgetful = federation(HeldClientStates(), 4)
    last = begin(forgetful, trainer.head)
    for round in range(1, 5):
        own = federation(forgetful.transport.client_states, round)
        ((last, _),) = federate(own, replace(last, state=replace(last.state, stages={**last.state.stages, "2": ZERO})))
    assert to_bytes(last.to_payload()) != to_bytes(expected.to_payload())


ZERO = {
    "first": {
        "input": {m: torch.zeros(3, d_in) for m, (_, d_in) in SHAPES.items()},
        "output": {m: torch.zeros(d_out, 3) for m, (d_out, _) in SHAPES.items()},
    }
}


def test_facts_behind_stages():
    plain = FFA().facts
    assert Pipeline(FFA(), (FedProx(),)).facts == plain
    clipped = Pipeline(FFA(), (Clip(), FedAvgM())).facts
    assert clipped == replace(plain, exact="no", idempotence_tolerance=None)
    assert Pipeline(FedSA(), (Clip(),)).facts.exact == "none"


def test_finding_stages(tmp_path):
    assert find_stage("clip") is Clip
    assert set(STAGES) == {"fedprox", "clip", "fedavgm", "fedadam"}
    with pytest.raises(MethodError, match="There is no stage 'clap': did you mean 'clip'"):
        find_stage("clap")
    file = tmp_path / "mine.py"
    file.write_text("from fedlora.federation.stages.clip import Clip\nclass Mine(Clip):\n    name = 'mine'\n")
    assert find_stage(f"{file}:Mine").name == "mine"
    for wrong, sentence in (
        (f"{file}:Other", "no class 'Other' that is a fedlora Stage"),
        (f"{file}x:Mine", "no file"),
    ):
        with pytest.raises(MethodError, match=sentence):
            find_stage(wrong)


@pytest.mark.parametrize(("stage", "field"), [(Clip, "norm"), (FedAvgM, "lr"), (FedAdam, "lr"), (FedProx, "mu")])
def test_numbers_that_stages_do_not_take(stage, field):
    with pytest.raises(MethodError, match=f"stage {stage.name}.{field} is -1.0; it must be"):
        stage(**{field: -1.0})
