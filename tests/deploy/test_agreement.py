"""The law: a simulation and separate sites give the same server state, bit for bit, and the same byte counts."""

import pytest
from tests.deploy.conftest import journal_state, lines

from fedlora.methods import BUILT_IN

DEPLOYABLE = [name for name, method in BUILT_IN.items() if not method().facts.centralized]
COUNTED = ("round", "client", "examples", "rank", "bytes_down", "bytes_up", "parameters_up", "loss", "score", "status")


def agree(one, other):
    assert journal_state(one) == journal_state(other)
    counts = [[{key: line[key] for key in COUNTED} for line in lines(run / "clients.jsonl")] for run in (one, other)]
    assert counts[0] == counts[1]
    assert all(line["status"] == "accepted" for line in counts[0])


@pytest.mark.parametrize("method", DEPLOYABLE)
def test_simulation_is_sites_behind_sockets(world, threads, tmp_path, method):
    own = world(method)
    own.simulate(tmp_path / "simulated")
    threads(own)
    own.deploy(tmp_path / "deployed")
    agree(tmp_path / "simulated", tmp_path / "deployed")


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=() if name == "fedsa" else pytest.mark.slow) for name in DEPLOYABLE]
)
def test_simulation_is_three_processes(world, processes, tmp_path, method):
    own = world(method)
    own.simulate(tmp_path / "simulated")
    processes(*own.sites())
    own.deploy(tmp_path / "deployed")
    agree(tmp_path / "simulated", tmp_path / "deployed")
