"""Faults of processes: killed, restarted, frozen; each really done to processes of their own."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.deploy.conftest import journal_state, lines
from tests.deploy.direct import DirectConnection

from fedlora.deploy.config import read_site
from fedlora.deploy.server import run_server
from fedlora.deploy.sockets import read_key

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SILENT = {"no answer within 15 s", "the site's process did not answer in time"}


def connection_of(world):
    return DirectConnection({own.site.address: read_key(Path(own.site.key)) for own in map(read_site, world.sites())})


def statuses(out, client):
    return [line["status"] for line in lines(out / "clients.jsonl") if line["client"] == client]


def long_fit(rounds):
    """Rounds that take a second or two, so that something can happen in their midst."""
    return {"rounds": rounds, "train": {"epochs": 20}}


def test_a_site_is_killed_in_a_round_and_comes_back(world, processes, tmp_path):
    own = world("fedsa", **long_fit(4))
    _, birch, _ = processes(*own.sites())
    run = run_server(own.config, connection_of(own), tmp_path / "out")
    for _, record in run:
        if record and record.round == 1:
            threading.Timer(0.5, birch.kill).start()  # in the midst of round 2
        if record and record.round == 2:
            processes(own.site("birch"))
    assert (
        statuses(tmp_path / "out", "birch")
        == [
            "accepted",
            "the other end went away",
            "accepted",
            "accepted",
        ]
        or statuses(tmp_path / "out", "birch")[1] == "the site's process is not running"
    )
    assert statuses(tmp_path / "out", "ash") == ["accepted"] * 4


def test_a_frozen_site_is_late_and_its_late_answer_is_dropped(world, processes, tmp_path):
    own = world("fedsa", rounds=4, deploy={"deadline": 15.0})
    _, birch, _ = processes(*own.sites())
    for _, record in run_server(own.config, connection_of(own), tmp_path / "out"):
        if record and record.round == 1:
            birch.send_signal(signal.SIGSTOP)
        if record and record.round == 2:
            birch.send_signal(signal.SIGCONT)
    first, second, _, fourth = statuses(tmp_path / "out", "birch")
    assert (first, fourth) == ("accepted", "accepted")
    assert second in SILENT
    assert statuses(tmp_path / "out", "cedar") == ["accepted"] * 4


def test_a_site_that_is_silent_for_ever_holds_nothing_up(world, processes, tmp_path):
    own = world("lora-a2", rounds=2, deploy={"deadline": 15.0})
    _, _, cedar = processes(*own.sites())
    started = time.monotonic()
    for _, record in run_server(own.config, connection_of(own), tmp_path / "out"):
        if record is None:
            cedar.send_signal(signal.SIGSTOP)
    assert time.monotonic() - started < 100
    assert set(statuses(tmp_path / "out", "cedar")) <= SILENT
    assert (tmp_path / "out" / "summary.json").is_file()
    cedar.send_signal(signal.SIGCONT)


SERVER = """
import sys
from pathlib import Path
from tests.deploy.direct import DirectConnection
from fedlora.app.config.schema import read_config
from fedlora.deploy.server import run_server
from fedlora.deploy.config import read_site
from fedlora.deploy.sockets import read_key

config, out, resume, *sites = sys.argv[1:]
own = [read_site(Path(site)).site for site in sites]
connection = DirectConnection({site.address: read_key(Path(site.key)) for site in own})
for _ in run_server(read_config(Path(config)), connection, Path(out), resume == "resume"):
    pass
"""


@pytest.mark.parametrize("method", ["lora-a2", "fedsa", "flora"])
def test_the_server_is_killed_and_resumed(world, processes, tmp_path, method):
    own = world(method, rounds=6, train={"epochs": 4})
    own.simulate(tmp_path / "simulated")
    processes(*own.sites())

    def server(resume):
        line = [sys.executable, "-c", SERVER, own.folder / "federation.toml", tmp_path / "out", resume, *own.sites()]
        return subprocess.Popen([str(word) for word in line], env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=ROOT)

    rounds, killed = tmp_path / "out" / "rounds.jsonl", []
    for wanted in (2, 4):
        process = server("resume" if killed else "")
        until = time.monotonic() + 120
        while (not rounds.exists() or len(lines(rounds)) < wanted) and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.2)  # in the midst of the next
        process.kill()
        process.wait()
        killed.append(len(lines(rounds)))
    assert server("resume").wait(120) == 0
    print(f"{method}: killed after rounds {killed}")
    assert killed[-1] < 6
    assert journal_state(tmp_path / "out") == journal_state(tmp_path / "simulated")
    assert statuses(tmp_path / "out", "ash") == ["accepted"] * 6
