"""Whoever has `ca.crt` alone gets nothing: no node, no list, no run, no byte at the server or at a site."""

import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from examples.loopback import proxies
from examples.loopback.processes import Loopback
from tests.deploy.stranger import MARK, Stranger, holding, play, start_honest

pytest.importorskip("flwr", reason="Flower is not installed: pip install fedlora[flower]")
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")


def is_refused(tmp_path, proxy):
    with Loopback(tmp_path / "loopback", proxy=proxy) as loopback:
        start_honest(loopback)
        steps = play(loopback, tmp_path / "stranger")
        assert [step for step in steps if not step.refused] == []
        assert len(steps) == 8
        files = [loopback.folder / f"superlink.sqlite{end}" for end in ("", "-wal", "-shm")]
        files += [*loopback.keys.glob("*.key"), loopback.keys / "node-birch", loopback.keys / "reviewer"]
        assert {file.name: stat.S_IMODE(file.stat().st_mode) for file in files} == {file.name: 0o600 for file in files}
        assert stat.S_IMODE(loopback.folder.stat().st_mode) == 0o700


def test_a_stranger_is_refused_behind_the_forwarder(tmp_path):
    is_refused(tmp_path, proxies.forwarder)


@pytest.mark.slow
@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
def test_a_stranger_is_refused_behind_nginx(tmp_path):
    is_refused(tmp_path, proxies.nginx)


@pytest.mark.slow
def test_a_site_runs_no_app_that_nobody_signed_even_for_the_operator(tmp_path):
    """The same app at the open plane: it runs at the server, so the tests above can fail, and at no site."""
    with Loopback(tmp_path / "loopback") as loopback:
        start_honest(loopback)
        operator = Stranger(tmp_path / "operator", loopback.control, loopback.keys / "ca.crt")
        started = operator.start_app(patience=25.0)
        assert not started.refused, started
        assert [file.name for file in operator.prey.iterdir()] == ["server"]
        assert "could not be verified" in loopback.log("node-birch")
        assert holding(loopback.folder, MARK.encode()), "the search for bytes finds nothing where there is something"


@pytest.mark.slow
def test_the_open_plane_of_an_earlier_commit_lets_the_stranger_in():
    commit, root = "7702f80", Path(__file__).parents[2]
    known = subprocess.run(
        ["git", "-C", root, "cat-file", "-e", f"{commit}^{{commit}}"], capture_output=True, check=False
    )
    if known.returncode:
        pytest.skip("the history is not here")
    line = [sys.executable, "tests/deploy/stranger.py", "--commit", commit]
    done = subprocess.run(line, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "GOT IN   code at the server" in done.stdout
    assert "GOT IN   code at a site" in done.stdout
