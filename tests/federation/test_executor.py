"""The same bits whoever serves the batches; and a message is what it was after bytes."""

import pickle
import threading
from dataclasses import dataclass, replace
from functools import partial

import pytest

from fedlora.core.adapter import AdapterSpec
from fedlora.core.payload import to_bytes
from fedlora.core.rounds import Client
from fedlora.errors import DataError
from fedlora.federation.executor import Inline, ThreadEach, Threads, Worker
from fedlora.federation.local import LocalTransport
from fedlora.federation.pipeline import Pipeline
from fedlora.federation.server import Federation, Plan, begin, federate
from fedlora.federation.settings import ClientsSettings
from fedlora.laws.standin import StandIn
from fedlora.methods.fedit import FedIT
from fedlora.methods.fedsa import FedSA
from fedlora.methods.lora_a2 import LoRAA2

SPEC = AdapterSpec({"a": (5, 7), "b": (6, 4)}, 2, 1.0, head="private")
CLIENTS = tuple(Client(f"c{k:02d}", 3 + k, 2) for k in range(11))


@dataclass(frozen=True)
class Elsewhere:
    """As another process would: worker, jobs and results are sent there and back."""

    worker: Worker

    def run(self, jobs):
        there = pickle.loads(pickle.dumps(self.worker))
        for job in jobs:
            yield pickle.loads(pickle.dumps(there(pickle.loads(pickle.dumps(job)))))


def on_three_devices(worker):
    return ThreadEach([worker, pickle.loads(pickle.dumps(worker)), pickle.loads(pickle.dumps(worker))])


EXECUTORS = {
    "three workers, a thread each": on_three_devices,
    "one thread": partial(Threads, count=1),
    "three threads": partial(Threads, count=3),
    "more threads than batches": partial(Threads, count=9),
    "elsewhere": Elsewhere,
}


def outcome(method, executor, **others):
    trainer = StandIn(SPEC, 1)
    transport = LocalTransport(CLIENTS, Pipeline(method), trainer, client_batch=2, executor=executor, **others)
    own = Federation(Pipeline(method), SPEC, transport, Plan(3, clients=ClientsSettings(per_round=9)), trainer)
    steps = list(federate(own, begin(own, trainer.head)))
    records = [(c.client, c.status, c.traffic, c.score) for _, record in steps for c in record.clients]
    states = [state.to_payload() for _, kept in sorted(transport.client_states.all().items()) for state in kept]
    return [to_bytes(server.to_payload()) for server, _ in steps], records, to_bytes({"all": states})


@pytest.mark.parametrize("method", [FedSA(), LoRAA2()], ids=lambda method: method.name)
@pytest.mark.parametrize("executor", EXECUTORS.values(), ids=EXECUTORS)
def test_every_executor_gives_the_same_bits(method, executor):
    assert outcome(method, executor) == outcome(method, Inline)


def test_values_handed_over_are_counted_as_bytes_are():
    assert outcome(LoRAA2(), Inline, through_bytes=False) == outcome(LoRAA2(), Inline)


def test_threads_serve_at_the_same_time_and_hold_few_results():
    barrier, taken = threading.Barrier(3, timeout=20), []

    def worker(job):
        if job < 3:
            barrier.wait()
        return [job]

    def jobs():
        for job in range(40):
            taken.append(job)
            yield job

    results = Threads(worker, 3).run(jobs())
    assert next(results) == [0]
    assert len(taken) <= 12
    assert [done for (done,) in results] == list(range(1, 40))


def test_workers_take_turns_whoever_is_ready_first():
    """The second worker waits for the first one's third job: which worker serves a job is settled by its place."""
    third, served = threading.Event(), []

    def first(job):
        served.append((0, job))
        if job == 4:
            third.set()
        return [job]

    def second(job):
        assert third.wait(20)
        served.append((1, job))
        return [job]

    assert [done for (done,) in ThreadEach([first, second]).run(iter(range(7)))] == list(range(7))
    assert sorted(served) == [(0, 0), (0, 2), (0, 4), (0, 6), (1, 1), (1, 3), (1, 5)]


def test_an_error_of_one_of_several_workers_is_raised():
    def broken(job):
        raise RuntimeError("no card")

    with pytest.raises(RuntimeError, match="no card"):
        list(ThreadEach([lambda job: [job], broken]).run(iter(range(4))))


@dataclass(frozen=True)
class SaysWhatCannotTravel(FedIT):
    """One client's notes hold an object."""

    def client(self, payload, kept, client, spec, round):
        outcome = yield from super().client(payload, kept, client, spec, round)
        return replace(outcome, notes={"thing": object()}) if client.id == "c04" else outcome


@dataclass(frozen=True)
class EndsInNothing(FedIT):
    """One client's half returns what is no outcome."""

    def client(self, payload, kept, client, spec, round):
        outcome = yield from super().client(payload, kept, client, spec, round)
        return None if client.id == "c04" else outcome


@pytest.mark.parametrize("method", [SaysWhatCannotTravel(), EndsInNothing()], ids=lambda own: type(own).__name__)
def test_what_cannot_be_sent_is_a_failure_of_its_client(method):
    _, records, _ = outcome(method, Inline)
    failed = {
        (client, status.partition(":")[0]) for client, status, _, _ in records if status not in ("accepted", "idle")
    }
    assert {client for client, _ in failed} == {"c04"}
    assert {error for _, error in failed} <= {"TypeError", "AttributeError"}


def test_a_client_whose_name_no_record_should_hold_is_refused():
    with pytest.raises(DataError, match=r"A client is called 'ward\\n3', expected one line"):
        LocalTransport((Client("ward\n3", 1, 1),), Pipeline(FedIT()), StandIn(SPEC, 1))
