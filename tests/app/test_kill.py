"""Kill -9 of the real command at ten random moments, each time gone on with: the same bytes as undisturbed."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest


@pytest.fixture
def command(tmp_path):
    """Starts the command line with everything that it says in `log`."""

    def start(*words):
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        with (tmp_path / "log").open("wb") as log:
            line = [sys.executable, "-m", "fedlora.cli", *map(str, words)]
            return subprocess.Popen(line, stdout=log, stderr=subprocess.STDOUT, env=env)

    return start


def tree(folder):
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "timings.jsonl"]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora-a2", "fedsa"])
def test_ten_kills(config, tmp_path, command, method):
    path = config(method={"name": method}, run={"rounds": 60}, clients={"ranks": [1, 2, 4], "per_round": 2})
    whole = command("run", path, "--out", tmp_path / "whole")
    assert whole.wait(300) == 0, (tmp_path / "log").read_text()
    moments = random.Random(7)
    seen = []
    for _ in range(10):
        resume = ["--resume"] if (tmp_path / "run" / "config.toml").exists() else []
        process = command("run", path, "--out", tmp_path / "run", *resume)
        rounds = tmp_path / "run" / "rounds.jsonl"
        before = len(rounds.read_bytes().splitlines()) if rounds.exists() else 0
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:  # until it has begun to write again
            if rounds.exists() and len(rounds.read_bytes().splitlines()) > before:
                break
            time.sleep(0.01)
        time.sleep(moments.uniform(0.0, 0.4))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        seen.append(len(rounds.read_bytes().splitlines()) if rounds.exists() else 0)
    assert len(set(seen)) >= 5, f"the kills did not hit different rounds: {seen}"
    last = command("run", path, "--out", tmp_path / "run", "--resume")
    assert last.wait(300) == 0, (tmp_path / "log").read_text()
    print(f"{method}: killed after rounds {seen}")
    assert tree(tmp_path / "run") == tree(tmp_path / "whole")


@pytest.mark.slow
def test_ctrl_c_is_a_sentence(config, tmp_path, command):
    path = config(run={"rounds": 500})
    process = command("run", path, "--out", tmp_path / "run")
    while not (tmp_path / "run" / "rounds.jsonl").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 1
    out = (tmp_path / "log").read_bytes()
    assert b"stopped; finished rounds are kept, go on with --resume" in out
    assert b"Traceback" not in out
