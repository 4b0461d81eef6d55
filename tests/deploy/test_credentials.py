"""Certificates and keys are what they should be, and the guide's own commands make the same."""

import re
import subprocess
from pathlib import Path

import pytest
from examples.loopback.credentials import make_authority, make_certificate, make_node_key

from fedlora.errors import UserError

GUIDE = Path(__file__).parents[2] / "docs" / "deploy.md"


def openssl(*words):
    return subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True, check=True).stdout


def check(folder, host):
    assert "OK" in openssl("verify", "-x509_strict", "-CAfile", folder / "ca.crt", folder / "server.crt")
    assert "does match certificate" in openssl("x509", "-in", folder / "server.crt", "-noout", "-checkhost", host)
    assert "CA:TRUE" in openssl("x509", "-in", folder / "ca.crt", "-noout", "-ext", "basicConstraints")


def test_made_by_us(tmp_path):
    make_authority(tmp_path)
    make_certificate(tmp_path, ["localhost", "127.0.0.1"])
    check(tmp_path, "localhost")
    private, public = make_node_key(tmp_path / "node")
    assert private.stat().st_mode & 0o077 == 0
    assert public.read_text().startswith("ecdsa-sha2-nistp384 ")


def test_made_by_the_guide(tmp_path):
    blocks = re.findall(r"```sh\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.S)
    assert len(blocks) == 2
    for block in blocks:
        subprocess.run(["sh", "-e", "-c", block], cwd=tmp_path, check=True, capture_output=True)
    check(tmp_path, "server.example.org")
    assert (tmp_path / "node.pub").read_text().startswith("ecdsa-sha2-nistp384 ")


def test_a_failure_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="openssl failed: "):
        make_certificate(tmp_path / "nowhere", ["localhost"])
