"""A warm process is a process: what is said of it in `tests.warm` holds."""

import os
import signal
import time

import pytest
from tests import warm


def test_it_has_folder_streams_and_exit_code_of_its_own(config, tmp_path):
    path = config()
    (tmp_path / "here").mkdir()
    done = warm.run("run", path, "--out", "out", cwd=tmp_path / "here")
    assert (done.returncode, done.stderr) == (0, "")
    assert "round 2/2" in done.stdout
    assert (tmp_path / "here" / "out" / "summary.json").is_file()
    refused = warm.run("run", path, "--out", "out", cwd=tmp_path / "here")
    assert refused.returncode == 2
    assert refused.stderr.startswith("fedlora: ")


def test_it_has_the_environment_that_it_is_given():
    lengths = [max(map(len, warm.run("--help", COLUMNS=width).stdout.splitlines())) for width in ("60", "120")]
    assert lengths == [60, 120]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 1), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_signal_reaches_it_and_nobody_else(config, tmp_path, number, code):
    log = tmp_path / "log"
    with log.open("wb") as said:
        words = ("run", config(run={"rounds": 500}), "--out", tmp_path / "out")
        process = warm.start(*words, stdin=None, stdout=said.fileno(), stderr=said.fileno())
    assert process.pid != os.getpid()
    while not (tmp_path / "out" / "rounds.jsonl").exists():
        assert process.poll() is None, log.read_text()
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(60) == code
    assert ("stopped; finished rounds are kept" in log.read_text()) == (number == signal.SIGINT)
