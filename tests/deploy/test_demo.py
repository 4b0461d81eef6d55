"""`make deploy-demo` leaves nothing behind but its folder, also on Ctrl-C; and Flower's own simulation."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tomli_w
from examples.loopback.processes import free_port
from tests.deploy.conftest import journal_state

from fedlora.app.build.simulation import build
from fedlora.app.config.schema import read_config
from fedlora.app.run.run import Run
from fedlora.deploy.app_files import APP

pytest.importorskip("flwr", reason="Flower is not installed: pip install fedlora[flower]")
pytestmark = pytest.mark.slow
DEMO = Path(__file__).parents[2] / "examples" / "deploy_demo.py"


def left(folder):
    """Processes that know of a folder by their environment."""
    found = []
    for own in Path("/proc").glob("[0-9]*"):
        try:
            environment = (own / "environ").read_bytes()
            if f"FLWR_HOME={folder}".encode() in environment:
                found.append((own / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_stops_what_it_started(tmp_path, number):
    process = subprocess.Popen([sys.executable, DEMO, tmp_path / "demo"], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        print(line, end="")
        if line.startswith("round 1/"):
            break
    assert len(left(tmp_path / "demo")) >= 8  # SuperLink, its app, three nodes, three sites, flwr
    process.send_signal(number)
    assert process.wait(90) == 1
    process.stdout.close()
    time.sleep(1)
    assert left(tmp_path / "demo") == []


@pytest.mark.parametrize("method", ["lora-a2", "fedsa"])
def test_flowers_simulation_gives_the_same_bits(ground, tmp_path, method):
    pytest.importorskip("ray", reason="Ray is not installed: pip install flwr[simulation]")
    tree = {
        "run": {"rounds": 2, "name": "sim"},
        "data": {"source": "files", "path": str(ground / "all")},
        "split": {"kind": "natural", "column": "site"},
        "model": {"base": str(ground / "base"), "max_length": 24},
        "clients": {"ranks": [1, 2, 4]},
        "method": {"name": method},
    }
    config, home = tmp_path / "config.toml", tmp_path / "home"
    config.write_text(tomli_w.dumps(tree))
    list(Run(build(read_config(config), workers=1), tmp_path / "plain"))
    home.mkdir()
    address = f"127.0.0.1:{free_port()}"
    told = {"address": address, "insecure": True}
    (home / "config.toml").write_text(tomli_w.dumps({"superlink": {"default": "sim", "sim": told}}))
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "OMP_NUM_THREADS": "1"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, **quiet, "FLWR_HOME": str(home), "PATH": path}
    link = ["flower-superlink", "--insecure", "--simulation", "--disable-runtime-dependency-installation"]
    with (tmp_path / "superlink.log").open("wb") as log:
        process = subprocess.Popen(
            [*link, "--port", address.rpartition(":")[2]], env=env, stdout=log, stderr=log, start_new_session=True
        )
    try:
        time.sleep(8)
        run = f"config={json.dumps(str(config))} out={json.dumps(str(tmp_path / 'out'))}"
        line = ["flwr", "run", str(APP), "sim", "--stream", "--run-config", run]
        done = subprocess.run(
            [*line, "--federation-config", "num-supernodes=3"],
            env=env, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert (tmp_path / "out" / "summary.json").is_file(), done.stdout + done.stderr
        assert journal_state(tmp_path / "out") == journal_state(tmp_path / "plain")
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
