"""Flower really carries it: a SuperLink behind a proxy, over TLS, SuperNodes with keys, a resident site behind each."""

import shutil
import signal
import time

import pytest
from examples.loopback import proxies
from examples.loopback.credentials import make_authority, make_node_key
from examples.loopback.processes import Loopback
from tests.deploy.conftest import RANKS, journal_state, lines

from fedlora.deploy.config import read_site
from fedlora.deploy.sockets import new_key

pytest.importorskip("flwr", reason="Flower is not installed: pip install fedlora[flower]")
pytestmark = pytest.mark.slow


NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
BOTH = [
    pytest.param(proxies.forwarder, id="forwarder"),
    pytest.param(proxies.nginx, id="nginx", marks=pytest.mark.skipif(NGINX is None, reason="nginx is not installed")),
]


@pytest.fixture
def loopback(request, tmp_path):
    with Loopback(tmp_path / "loopback", proxy=getattr(request, "param", proxies.forwarder)) as own:
        own.superlink()
        yield own


@pytest.fixture
def nodes(loopback):
    """Starts a SuperNode and a site for each of a world's sites; returns the nodes' private keys."""

    def start(world):
        keys = {}
        for name in RANKS:
            own = read_site(world.site(name)).site
            new_key(world.site(name).parent / "private" / "site.key")
            keys[name] = loopback.register(name)
            loopback.supernode(name, own.address, own.key, keys[name])
        for name in RANKS:
            loopback.site(name, world.site(name))
        return keys

    return start


def wait_for_rounds(run, out, count, patience=180):
    """Until so many rounds are finished."""
    until = time.monotonic() + patience
    rounds = out / "rounds.jsonl"
    while (not rounds.exists() or len(lines(rounds)) < count) and run.poll() is None:
        assert time.monotonic() < until, "the run does not get on"
        time.sleep(0.1)


def refused(loopback, name, words, patience=90):
    """A node that must not come in: it ends by itself, with exit code 1 and a sentence."""
    assert loopback.process(f"node-{name}").wait(patience) == 1
    said = loopback.log(f"node-{name}")
    assert words in said, said
    print([line for line in said.splitlines() if words in line])


def statuses(out, client):
    return [line["status"] for line in lines(out / "clients.jsonl") if line["client"] == client]


def test_who_must_not_come_in(loopback, tmp_path):
    stranger, _ = make_node_key(tmp_path / "stranger")
    loopback.supernode("stranger", "127.0.0.1:1", tmp_path / "none", stranger)
    refused(loopback, "stranger", "2004")
    known = loopback.register("known")
    loopback.supernode("fooled", "127.0.0.1:1", tmp_path / "none", known, make_authority(tmp_path / "other"))
    refused(loopback, "fooled", "CERTIFICATE_VERIFY_FAILED")


@pytest.mark.parametrize("loopback", BOTH, indirect=True)
def test_flower_is_a_simulation(loopback, nodes, world, tmp_path):
    own = world("lora-a2", deploy={"deadline": 120.0})
    own.simulate(tmp_path / "simulated")
    nodes(own)
    out = tmp_path / "out"
    said, _ = loopback.run({"config": str(own.folder / "federation.toml"), "out": str(out)}).communicate(timeout=300)
    assert (out / "summary.json").is_file(), said
    assert journal_state(out) == journal_state(tmp_path / "simulated")
    counted = ("round", "client", "examples", "rank", "bytes_down", "bytes_up", "parameters_up", "status", "score")
    both = [
        [[line[key] for key in counted] for line in lines(run / "clients.jsonl")]
        for run in (out, tmp_path / "simulated")
    ]
    assert both[0] == both[1]
    changed = {"config": str(own.folder / "federation.toml"), "out": str(tmp_path / "changed"), "set": "train.lr=0.5"}
    said, _ = loopback.run(changed).communicate(timeout=300)
    sentences = [line for line in said.splitlines() if "train.lr is 0.005 at site" in line]
    assert sentences, said
    print(sentences[0])
    assert not (tmp_path / "changed").exists()


def test_a_node_is_killed_in_a_round_and_comes_back(loopback, nodes, world, tmp_path):
    own = world("fedsa", rounds=25, deploy={"deadline": 150.0, "quorum": 2})
    keys, out = nodes(own), tmp_path / "out"
    run = loopback.run({"config": str(own.folder / "federation.toml"), "out": str(out)})
    wait_for_rounds(run, out, 1)
    loopback.process("node-birch").send_signal(signal.SIGKILL)
    loopback.stop("node-birch")
    wait_for_rounds(run, out, 3)
    time.sleep(60)  # Flower refuses the key for a while after a kill
    site = read_site(own.site("birch")).site
    loopback.supernode("birch", site.address, site.key, keys["birch"])
    said, _ = run.communicate(timeout=600)
    print(statuses(out, "birch"), [line["what"] for line in lines(out / "deliveries.jsonl")])
    assert (out / "summary.json").is_file(), said
    assert statuses(out, "birch")[0] == statuses(out, "birch")[-1] == "accepted"
    assert {"the node is gone", "not connected"} & set(statuses(out, "birch"))
    assert statuses(out, "ash") == ["accepted"] * 25


def test_the_superlink_is_killed_and_the_run_resumed(loopback, nodes, world, tmp_path):
    own = world("fedsa", rounds=4, deploy={"deadline": 150.0})
    own.simulate(tmp_path / "simulated")
    nodes(own)
    out = tmp_path / "out"
    settings = {"config": str(own.folder / "federation.toml"), "out": str(out)}
    run = loopback.run(settings)
    wait_for_rounds(run, out, 2)
    loopback.process("superlink").send_signal(signal.SIGKILL)
    loopback.stop("superlink")
    run.terminate()
    run.communicate(timeout=60)
    print(f"killed after round {len(lines(out / 'rounds.jsonl'))}")
    loopback.superlink()
    until = time.monotonic() + 240
    while not (out / "summary.json").exists() and time.monotonic() < until:
        said, _ = loopback.run({**settings, "resume": True}).communicate(timeout=240)
        time.sleep(2)
    assert (out / "summary.json").is_file(), said
    assert journal_state(out) == journal_state(tmp_path / "simulated")
