"""The loop: sampling, drop-outs, broken clients, lost client states, heads, scores."""

from dataclasses import dataclass, field, replace

import pytest
import torch

from fedlora.core.adapter import AdapterSpec
from fedlora.core.metrics import Score
from fedlora.core.payload import to_bytes
from fedlora.core.rounds import Client, Failure
from fedlora.errors import DivergedError, FedloraError, ModelError, QuorumError
from fedlora.federation import server as server_module
from fedlora.federation.client_states import HeldClientStates
from fedlora.federation.local import LocalTransport
from fedlora.federation.pipeline import Pipeline
from fedlora.federation.record import personal
from fedlora.federation.sampling import participants
from fedlora.federation.server import Federation, Plan, begin, federate
from fedlora.federation.settings import ClientsSettings, EvaluateSettings
from fedlora.laws.standin import SCORING, StandIn
from fedlora.methods import BUILT_IN
from fedlora.methods.fedit import FedIT
from fedlora.methods.fedsa import FedSA
from fedlora.methods.local import Local
from fedlora.methods.lora_a2 import LoRAA2

SHAPES = {"a": (5, 7), "b": (6, 4)}
CLIENTS = tuple(Client(f"c{k}", 3 + k, 2) for k in range(6))


def federation(method, trainer=None, head="shared", clients=CLIENTS, drawn=None, **plan):
    spec = AdapterSpec(SHAPES, 2, 1.0, head=head)
    trainer = trainer or StandIn(spec, seed=1)
    transport = LocalTransport(clients, Pipeline(method), trainer)
    return Federation(
        Pipeline(method), spec, transport, Plan(**{"rounds": 3, "clients": drawn or ClientsSettings(), **plan}), trainer
    )


def run(method, **others):
    own = federation(method, **others)
    return own, list(federate(own, begin(own, own.scorer.head)))


def test_sampling_is_named_by_seed_and_round():
    one = [[c.id for c in participants(CLIENTS, 3, 0, t)] for t in range(1, 9)]
    assert one == [[c.id for c in participants(CLIENTS[::-1], 3, 0, t)] for t in range(1, 9)]
    assert all(len(chosen) == 3 and chosen == sorted(chosen) for chosen in one)
    assert len({tuple(chosen) for chosen in one}) > 3
    assert one != [[c.id for c in participants(CLIENTS, 3, 1, t)] for t in range(1, 9)]


def test_only_the_drawn_take_part():
    _, steps = run(FedIT(), drawn=ClientsSettings(per_round=2), evaluate=EvaluateSettings(every=0))
    for _, record in steps[:-1]:
        assert [c.status for c in record.clients] == ["accepted"] * 2
    last = steps[-1][1]
    assert sorted(c.status for c in last.clients) == ["accepted"] * 2 + ["idle"] * 4
    assert last.evaluated
    assert all(c.score is not None for c in last.clients)


def test_drop_outs_cost_nothing_and_the_weights_are_of_those_who_came():
    _, steps = run(FedIT(), drawn=ClientsSettings(dropout=0.6), seed=4)
    gone = [c for _, record in steps for c in record.clients if c.status == "unreachable"]
    assert gone
    assert all(c.traffic.down == c.traffic.up == 0 for c in gone)
    assert len(gone) + sum(record.accepted for _, record in steps) == 18


def test_nobody_there_and_the_state_stays():
    own, steps = run(FedIT(), drawn=ClientsSettings(dropout=0.9999), rounds=2)
    assert [record.accepted for _, record in steps] == [0, 0]
    begun = begin(own, own.scorer.head)
    assert steps[-1][0].state is not None
    assert all(t.equal(steps[-1][0].state.adapter.input[m]) for m, t in begun.state.adapter.input.items())
    assert steps[0][1].loss is None


@dataclass(frozen=True)
class Breaks(FedIT):
    """Fails at one client."""

    def receive(self, payload, kept, client, spec):
        if client.id == "c2":
            raise ZeroDivisionError("at this site")
        return super().receive(payload, kept, client, spec)


def test_one_clients_error_is_its_failure_alone():
    _, broken = run(Breaks())
    _, absent = run(FedIT(), clients=tuple(c for c in CLIENTS if c.id != "c2"))
    for (one, record), (other, _) in zip(broken, absent, strict=True):
        (own,) = [c for c in record.clients if c.client == "c2"]
        assert own.status == "ZeroDivisionError: at this site"
        assert (own.traffic.up, own.score) == (0, None)
        assert own.traffic.down > 0
        assert all(t.equal(other.state.adapter.output[m]) for m, t in one.state.adapter.output.items())


@dataclass(frozen=True)
class BreaksEverywhere(FedIT):
    """Fails at every client."""

    def receive(self, payload, kept, client, spec):
        raise ZeroDivisionError("everywhere")


def test_a_round_in_which_everybody_fails_is_loud():
    with pytest.raises(FedloraError, match="every client failed; client c0 with ZeroDivisionError: everywhere"):
        run(BreaksEverywhere())


@dataclass(frozen=True)
class Diverging(StandIn):
    """Loses the finite numbers at some clients in round 2."""

    at: tuple[str, ...] = ()

    def fit(self, jobs):
        return [
            Failure(job.client, job.round, "the loss is nan at step 1 of 2", "diverged")
            if job.round == 2 and job.client in self.at
            else answer
            for job, answer in zip(jobs, super().fit(jobs), strict=True)
        ]


SPEC = AdapterSpec(SHAPES, 2, 1.0, head="shared")


def states(steps):
    return [to_bytes(server.to_payload()) for server, _ in steps]


def statuses(steps, client):
    return [c.status for _, record in steps for c in record.clients if c.client == client]


def test_a_loss_that_is_not_finite_is_its_clients_failure_alone():
    _, steps = run(FedIT(), trainer=Diverging(SPEC, 1, at=("c3",)))
    assert statuses(steps, "c3") == ["accepted", "the loss is nan at step 1 of 2", "accepted"]
    assert states(steps) == states(run(Unlucky(client="c3", round=2))[1])


def test_a_loss_that_is_not_finite_everywhere_stops_the_run():
    own = federation(FedIT(), Diverging(SPEC, 1, at=tuple(c.id for c in CLIENTS)))
    steps = federate(own, begin(own, own.scorer.head))
    next(steps)
    sentence = r"Round 2: every client failed; client c0 with the loss is nan at step 1 of 2\. Lower train\.lr"
    with pytest.raises(DivergedError, match=sentence):
        next(steps)


@dataclass(frozen=True)
class Unlucky(FedIT):
    """What one client uploads in a round cannot be used, as if it had not been reached."""

    client_id: str = ""
    round: int = 0

    def __init__(self, client, round):
        object.__setattr__(self, "client_id", client)
        object.__setattr__(self, "round", round)

    def client(self, payload, kept, client, spec, round):
        outcome = yield from super().client(payload, kept, client, spec, round)
        return replace(outcome, payload={}) if (client.id, round) == (self.client_id, self.round) else outcome


@dataclass(frozen=True)
class Raising(StandIn):
    """Raises where one client is among those that it is given."""

    error: Exception | None = None
    what: str = "fit"
    asked: list = field(default_factory=list)

    def fit(self, jobs):
        self.asked.append([job.client for job in jobs])
        if self.what == "fit" and any((job.client, job.round) == ("c3", 2) for job in jobs):
            raise self.error
        return super().fit(jobs)

    def score(self, jobs):
        if self.what == "score" and any(job.client == "c3" for job in jobs):
            raise self.error
        return super().score(jobs)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("planted"), MemoryError("no room"), ModelError("The base is not there."), KeyError("c3")],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_of_the_trainer_is_its_clients_failure_alone(error):
    trainer = Raising(SPEC, 1, error=error)
    _, steps = run(FedIT(), trainer=trainer)
    first, second, third = statuses(steps, "c3")
    assert (first, second, third) == ("accepted", f"{type(error).__name__}: {error}", "accepted")
    assert all(set(statuses(steps, c.id)) == {"accepted"} for c in CLIENTS if c.id != "c3")
    assert states(steps) == states(run(Unlucky(client="c3", round=2))[1])
    assert trainer.asked[1] == [c.id for c in CLIENTS]
    assert trainer.asked[2:8] == [[c.id] for c in CLIENTS]


def test_an_exception_in_scoring_costs_that_clients_score_alone():
    _, steps = run(FedIT(), trainer=Raising(SPEC, 1, error=RuntimeError("planted"), what="score"))
    for _, record in steps:
        assert [c.client for c in record.clients if c.score is None] == ["c3"]
        assert all(c.status == "accepted" for c in record.clients)


def test_fewer_updates_than_the_quorum_stop_the_run():
    own = federation(FedIT(), Raising(SPEC, 1, error=RuntimeError("planted")), quorum=6)
    steps = federate(own, begin(own, own.scorer.head))
    next(steps)
    sentence = (
        r"Round 2: 5 of 6 clients gave an update, fewer than deploy.quorum \(6\); client c3 failed with RuntimeError"
    )
    with pytest.raises(QuorumError, match=sentence):
        next(steps)


@dataclass(frozen=True)
class SendsNonsense(FedIT):
    """One client sends numbers that are not finite."""

    def client(self, payload, kept, client, spec, round):
        outcome = yield from super().client(payload, kept, client, spec, round)
        if client.id != "c4":
            return outcome
        sides = outcome.update.sides
        nonsense = {m: t / 0 for m, t in sides["input"].items()}
        return replace(outcome, update=replace(outcome.update, sides={**sides, "input": nonsense}))


def test_numbers_that_are_not_finite_are_refused():
    _, steps = run(SendsNonsense())
    refused = {c.client for _, record in steps for c in record.clients if c.status == "refused: not finite"}
    assert refused == {"c4"}
    assert set(steps[-1][0].last_seen_rounds) == {c.id for c in CLIENTS} - {"c4"}


@pytest.mark.parametrize("method", [LoRAA2(), FedSA(), Local()], ids=lambda m: m.name)
def test_a_client_that_lost_its_memory_says_so_and_gets_everything(method):
    own = federation(method, rounds=4)
    transport = own.transport
    steps = federate(own, begin(own, own.scorer.head))
    next(steps)
    kept = transport.client_states.all()
    transport.client_states = HeldClientStates({client: own for client, own in kept.items() if client != "c1"})
    server, record = next(steps)
    (lost,) = [c for c in record.clients if c.client == "c1"]
    assert "holds nothing" in lost.status
    assert "c1" not in server.last_seen_rounds
    server, record = next(steps)
    assert all(c.status == "accepted" for c in record.clients)
    assert server.last_seen_rounds["c1"] == 3


def test_heads_are_treated_once_for_all_methods():
    for name, kind in BUILT_IN.items():
        method = kind()
        if "lora" not in method.facts.kinds:
            continue
        for mode in ("shared", "frozen", "private"):
            own, steps = run(method, head=mode)
            server, record = steps[-1]
            effective = method.facts.head_mode(own.spec)
            private = name in ("local", "central") and mode == "shared"
            assert effective == ("frozen" if name == "base" else "private" if private else mode)
            moved = not server.state.head["head"].equal(own.scorer.head["head"])
            assert moved == (effective == "shared")
            assert all((c.head_bytes_up > 0) == (effective == "shared") for c in record.clients)
            heads = [m[-1].head for m in own.transport.client_states.all().values()]
            if effective == "private":
                assert len({h["head"].numpy().tobytes() for h in heads}) == len(CLIENTS)
                assert (record.global_score is None) == (name != "central")
            else:
                assert not any(heads)


def test_the_shared_head_is_the_weighted_mean():
    own = federation(FedIT(), rounds=1)
    begun = begin(own, own.scorer.head)
    (server, _), *_ = federate(own, begun)
    expected = torch.zeros(3)
    total = sum(c.examples for c in CLIENTS)
    for client in CLIENTS:
        _, target = own.scorer._data(client.id)
        h = begun.state.head["head"]
        for _ in range(2):
            h = h - own.scorer.rate * (h - target)
        expected += client.examples / total * h
    torch.testing.assert_close(server.state.head["head"], expected)


def test_personal_scores_by_hand():
    """Accuracies 1, .5, 0 on parts of 2, 4 and 10: mean .5, weighted 4/16, worst tenth 0, one empty."""
    parts = [(2, 2), (4, 2), (10, 0), (0, 0)]
    own = personal([Score(examples, {"close": close, "loss": 0.4}) for examples, close in parts], SCORING)
    assert own.others == {"loss": pytest.approx(3 * 0.4 / 16)}
    assert (own.mean, own.weighted_mean, own.worst_tenth) == (0.5, 0.25, 0.0)
    assert own.standard_deviation == pytest.approx((0.5 / 3) ** 0.5)
    assert (own.count, own.empty) == (3, 1)
    assert personal([None, Score(0)], SCORING) is None


def test_worst_tenth_rounds_up():
    scores = [Score(10, {"close": k}) for k in range(11)]
    assert personal(scores, SCORING).worst_tenth == pytest.approx(0.05)  # ceil(11 / 10) = 2: 0 and .1


def test_the_worst_tenth_of_a_metric_of_which_less_is_better_is_its_highest():
    loss_first = replace(SCORING, metrics=SCORING.metrics[::-1])
    scores = [Score(10, {"loss": 10.0 * k}) for k in range(11)]
    assert personal(scores, loss_first).worst_tenth == pytest.approx(9.5)
    assert loss_first.goodness(scores[3]) == -3.0


def test_a_narrow_wire_halves_the_floats_both_ways():
    traffic = []
    for wire in (torch.float32, torch.bfloat16):
        trainer = StandIn(AdapterSpec(SHAPES, 2, 1.0, head="shared", wire=wire), 1)
        transport = LocalTransport(CLIENTS, Pipeline(FedIT()), trainer)
        own = Federation(Pipeline(FedIT()), trainer.spec, transport, Plan(3), trainer)
        steps = list(federate(own, begin(own, trainer.head)))
        traffic.append(steps[-1][1].traffic)
    floats = len(CLIENTS) * (2 * (7 + 5 + 4 + 6) + 3)  # both sides at rank 2, and the head
    assert 0 <= traffic[0].up - traffic[1].up - 2 * floats <= 16 * len(CLIENTS)  # the names weigh the same
    assert 0 <= traffic[0].down - traffic[1].down - 2 * floats <= 16 * len(CLIENTS)


def test_sums_do_not_suffer_from_a_narrow_wire():
    """Fault (g): a mean of many bfloat16 uploads, kept in float32 or better."""
    many = tuple(Client(f"c{k:03d}", 1, 2) for k in range(300))
    spec = AdapterSpec(SHAPES, 2, 1.0, wire=torch.bfloat16)
    trainer = StandIn(spec, 1)
    transport = LocalTransport(many, Pipeline(FedIT()), trainer)
    own = Federation(Pipeline(FedIT()), spec, transport, Plan(1, evaluate=EvaluateSettings(every=0)), trainer)
    sent = []

    class Listening(FedIT):
        def aggregate(self, state, updates, round):
            sent.extend(updates)
            return super().aggregate(state, iter(sent), round)

    own = replace(own, pipeline=Pipeline(Listening()))
    (server, _), *_ = federate(own, begin(own, trainer.head))
    for module in SHAPES:
        exact = sum(u.sides["input"][module].double() for u in sent) / 300
        error = (server.state.adapter.input[module].double() - exact).abs().max()
        assert float(error) < 1e-7 * (1 + float(exact.abs().max()))


def test_scores_taken_some_at_a_time_are_those_taken_at_once(monkeypatch):
    _, at_once = run(LoRAA2(), evaluate=EvaluateSettings(every=1))
    monkeypatch.setattr(server_module, "_SCORED_AT_A_TIME", 4)
    own = federation(LoRAA2(), evaluate=EvaluateSettings(every=1))
    sizes, exchange = [], own.transport.exchange

    def counted(orders):
        sizes.append(len(orders))
        return exchange(orders)

    monkeypatch.setattr(own.transport, "exchange", counted)
    in_parts = list(federate(own, begin(own, own.scorer.head)))
    assert sizes == [6, 4, 2] * 3  # a round of training, then six clients scored in two parts
    for (_, one), (_, other) in zip(at_once, in_parts, strict=True):
        assert one.personal == other.personal
        assert [c.score for c in one.clients] == [c.score for c in other.clients]
        assert one.evaluation_bytes == other.evaluation_bytes
