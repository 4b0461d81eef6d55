"""The guide's commands are closed ones: nothing of Flower's but nodes is shown to the network, and nothing is told to others."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fedlora.deploy.app_files import write_app

pytest.importorskip("flwr", reason="Flower is not installed: pip install fedlora[flower]")
ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
BLOCKS = [own[2] for own in re.finditer(r"^```(\w*)\n(.*?)^```$", GUIDE, flags=re.S | re.M) if own[1] in {"", "sh"}]
QUIET = {"FLWR_TELEMETRY_ENABLED=0", "FLWR_DISABLE_UPDATE_CHECK=1"}


def commands():
    """The guide's commands: the variables that stand before it, the command, its words."""
    for block in BLOCKS:
        for line in block.replace("\\\n", " ").splitlines():
            words = line.split()
            variables = {word for word in words if re.match(r"[A-Z_]+=", word)}
            rest = [word for word in words if word not in variables]
            if rest:
                yield variables, rest[0], rest


def test_flower_is_quiet_and_closed_in_every_command():
    flower = [own for own in commands() if own[1] in {"flwr", "flower-superlink", "flower-supernode"}]
    assert len(flower) >= 6
    for variables, name, words in flower:
        assert variables >= QUIET, words
        if name == "flower-superlink":
            assert words[words.index("--host") + 1] == "127.0.0.1", words
            assert {"--enable-supernode-auth", "--disable-runtime-dependency-installation"} <= set(words), words
        if name == "flower-supernode":
            assert "--trusted-entities" in words, words


@pytest.mark.parametrize("name", ["flower-superlink", "flower-supernode"])
def test_flower_has_the_options_that_the_guide_names(name):
    shown = {word for _, command, words in commands() if command == name for word in words if word.startswith("--")}
    assert shown
    help_text = subprocess.run(
        [Path(sys.executable).parent / name, "--help"], capture_output=True, text=True, check=True
    ).stdout.replace("]", " ")
    assert {option for option in shown if option not in help_text.split()} == set()


def test_processes_that_hold_secrets_make_files_for_their_user_alone():
    secret = (
        "openssl req",
        "ssh-keygen -q -t ecdsa",
        "flower-superlink",
        "flower-supernode",
        "nginx -e",
        "fedlora site",
    )
    holding = [block for block in BLOCKS if any(word in block for word in secret)]
    assert len(holding) >= 6
    assert [block for block in holding if not block.startswith("umask 077\n")] == []


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
def test_nginx_takes_the_guides_configuration(tmp_path):
    keys = next(block for block in BLOCKS if "-out server.crt" in block)
    subprocess.run(["sh", "-e", "-c", keys], cwd=tmp_path, check=True, capture_output=True)
    write_app(tmp_path / "app")
    (fill,) = (line for line in GUIDE.splitlines() if line.startswith("sed "))
    subprocess.run(["sh", "-e", "-c", fill.replace("/srv/federation", str(tmp_path))], cwd=tmp_path, check=True)
    filled = (tmp_path / "nginx.conf").read_text()
    assert "listen 8000 ssl;" in filled
    line = [NGINX, "-t", "-e", "stderr", "-c", tmp_path / "nginx.conf"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
