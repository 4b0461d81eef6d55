"""What newcomers and attackers met at `fedlora site` and in the guide to deployments."""

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import tomli_w
from tests import warm

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
BLOCKS = [block[2] for block in re.finditer(r"^```(\w*)\n(.*?)^```$", GUIDE, flags=re.S | re.M)]
QUIET = {"FLWR_TELEMETRY_ENABLED=0", "FLWR_DISABLE_UPDATE_CHECK=1"}


@pytest.fixture
def site_file(small, tmp_path):
    """Writes a SITE.toml with some keys changed, and the shared config beside it."""

    def write(**keys):
        rows = [json.loads(line) for line in (small / "data" / "train.jsonl").read_text().splitlines()]
        shared = {
            "run": {"rounds": 2, "name": "grove"},
            "data": {"labels": sorted({row["label"] for row in rows})},
            "model": {"base": str(small / "base"), "max_length": 24},
            "adapter": {"rank": 2},
            "method": {"name": "fedsa"},
            "deploy": {"sites": 1},
        }
        (tmp_path / "federation.toml").write_text(tomli_w.dumps(shared))
        tree = {"site": {"name": "birch", **keys}, "data": {"path": str(small / "data")}}
        (tmp_path / "site.toml").write_text(tomli_w.dumps(tree))
        return tmp_path / "site.toml"

    return write


@pytest.fixture
def start(tmp_path):
    """Starts `fedlora site FILE`, and waits until it is ready; what it says goes to a file.

    With options of a process, an interpreter is started for it.
    """
    begun = []

    def begin(path, wait=True, **options):
        log = tmp_path / f"site-{len(begun)}.log"
        with log.open("wb") as file:
            if options:
                env = {**os.environ, "OMP_NUM_THREADS": "1"}
                line = [sys.executable, "-m", "fedlora.cli", "site", str(path)]
                process = subprocess.Popen(line, stdout=file, stderr=file, env=env, **options)
            else:
                process = warm.start("site", path, stdin=None, stdout=file.fileno(), stderr=file.fileno())
        begun.append(process)
        if wait:
            wait_until(lambda: "is ready at" in log.read_text() or process.poll() is not None)
            assert process.poll() is None, log.read_text()
        return process, log

    yield begin
    for process in begun:
        process.kill()
        process.wait()


def wait_until(done, patience=120):
    """Until something is so."""
    until = time.monotonic() + patience
    while not done():
        assert time.monotonic() < until, "it does not happen"
        time.sleep(0.1)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def greets(port):
    """Whether a site begins to speak with whoever connects."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as peer:
        return len(peer.recv(32)) == 32


@pytest.mark.defect("S9")
def test_connections_without_the_key_do_not_end_the_site(site_file, start):
    port, files = free_port(), 256
    process, _ = start(
        site_file(address=f"127.0.0.1:{port}"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files)),
    )
    with ExitStack() as stack:
        for _ in range(files + 50):
            try:
                stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=2))
            except OSError:  # refused: that is an answer, too
                break
        time.sleep(1)
        assert process.poll() is None
    time.sleep(0.5)
    assert process.poll() is None
    assert greets(port)


@pytest.mark.defect("S18")
def test_a_file_that_is_no_socket_is_not_removed(site_file, start, tmp_path):
    precious = tmp_path / "precious.txt"
    precious.write_text("years of work")
    process, log = start(site_file(address=str(precious)), wait=False)
    wait_until(lambda: process.poll() is not None or not precious.is_file())
    assert precious.is_file()
    assert precious.read_text() == "years of work"
    assert process.wait(30) == 2
    assert "no socket" in log.read_text()


@pytest.mark.defect("H8")
def test_a_site_that_is_asked_to_stop_ends_well(site_file, start):
    process, _ = start(site_file())
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


@pytest.mark.defect("H8")
def test_a_sites_lines_have_the_time(site_file, start):
    _, log = start(site_file())
    (ready,) = [line for line in log.read_text().splitlines() if "is ready at" in line]
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", ready)


@pytest.mark.defect("H10")
def test_a_second_process_of_a_site_is_told_of_its_folder(site_file, start):
    path = site_file()
    start(path)
    second, log = start(path, wait=False)
    assert second.wait(120) == 2
    said = log.read_text()
    assert "--out" not in said
    assert "site.folder" in said


@pytest.mark.defect("H10")
def test_a_label_that_is_not_in_the_config_is_found_by_its_row(site_file, small, tmp_path, fedlora):
    path = site_file()
    (tmp_path / "data").mkdir()
    for part in ("train", "test"):
        lines = (small / "data" / f"{part}.jsonl").read_text().splitlines()
        if part == "train":
            lines[6] = json.dumps({**json.loads(lines[6]), "label": "unknown_label"})
        (tmp_path / "data" / f"{part}.jsonl").write_text("\n".join(lines) + "\n")
    path.write_text(path.read_text().replace(str(small / "data"), "data"))
    code, _, said = fedlora("site", path)
    assert code == 2
    assert "row 7 of the train part has the label 'unknown_label'" in said
    assert "data.labels" in said
    assert "of the training part" not in said


@pytest.mark.defect("H3")
def test_the_flower_app_comes_with_the_package(tmp_path, fedlora):
    code, said, _ = fedlora("deploy-app", tmp_path / "app")
    assert code == 0
    assert str(tmp_path / "app") in said
    text = (tmp_path / "app" / "pyproject.toml").read_text()
    assert 'serverapp = "fedlora.deploy.flower.server_app:app"' in text
    assert (tmp_path / "app" / "nginx.conf").is_file()
    code, _, said = fedlora("deploy-app", tmp_path / "app")
    assert code == 2
    assert "already holds something" in said


@pytest.mark.defect("H2")
def test_the_guide_installs_nothing_that_is_not_published():
    installs = [line for block in BLOCKS for line in block.splitlines() if line.strip().startswith("pip install")]
    assert [line for line in installs if re.search(r'"fedlora\[[a-z]+\]"', line)] == []
    assert "examples/flower" not in GUIDE


@pytest.mark.defect("H4")
@pytest.mark.defect("H5")
def test_the_guide_tells_of_ports_and_of_how_a_run_ended():
    assert "--port 9095" in GUIDE
    assert any(block.rstrip().endswith("summary.json") for block in BLOCKS)


@pytest.mark.defect("H11")
def test_the_superlinks_database_is_for_its_user_alone():
    holding = [block for block in BLOCKS if "flower-superlink" in block]
    assert holding
    assert [block for block in holding if not block.startswith("umask 077\n")] == []


@pytest.mark.defect("S19")
def test_flower_tells_nobody_of_the_machine():
    found = [
        line.split()
        for block in BLOCKS
        for line in block.replace("\\\n", " ").splitlines()
        if re.search(r"(^|\s)(flwr|flower-superlink|flower-supernode) ", line)
    ]
    assert len(found) >= 4
    assert [words for words in found if not set(words) >= QUIET] == []


@pytest.mark.defect("H12")
@pytest.mark.parametrize(
    "word",
    ["firewall", "upgrade", "backup", "renew", "leaves", "unregister", "--health-server-address", "--log-file"],
)
def test_the_guide_tells_how_a_deployment_is_kept(word):
    _, _, section = GUIDE.partition("## Keeping it running")
    assert word in section.partition("\n## ")[0].lower()


@pytest.mark.defect("S22")
def test_privacy_names_what_many_evaluations_tell():
    text = (ROOT / "docs" / "privacy.md").read_text(encoding="utf-8")
    assert "once a round" in text
    assert "evaluation" in text.partition("## Of each method")[0]
