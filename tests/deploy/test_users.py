"""Node and site as different users, as in docs/deploy.md: the node reaches the socket and no data."""

import os
import shutil
import tempfile
import threading
from pathlib import Path

import pytest

from fedlora.deploy.sockets import ask, new_key, open_socket, read_key, serve_bytes

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to be other users")
NODE, STRANGER, LINK = 64001, 64002, 64003
"""Two users and the group that node and site share."""


@pytest.fixture
def site():
    """Where a site listens, as the guide sets it up; its data beside it."""
    top = Path(tempfile.mkdtemp())
    top.chmod(0o755)
    data, link = top / "site", top / "link"
    data.mkdir(mode=0o700)
    (data / "train.jsonl").write_text("private")
    link.mkdir()
    os.chown(link, 0, LINK)
    link.chmod(0o2750)
    before = os.umask(0o027)
    key = new_key(link / "site.key")
    (link / "site.key").chmod(0o640)
    os.umask(0o077)
    listener = open_socket(str(link / "site.socket"))
    os.umask(before)
    threading.Thread(target=serve_bytes, args=(listener, key, lambda told: told[::-1]), daemon=True).start()
    yield top
    listener.close()
    shutil.rmtree(top)


def as_user(user, groups, call):
    """What a call gives as another user: the name of its error, or `done`."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups(groups)
            os.setgid(user)
            os.setuid(user)
            call()
            os.write(write, b"done")
        except BaseException as error:
            os.write(write, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as said:
        return said.read()


def test_the_node_reaches_the_socket_and_no_data(site):
    def exchange():
        assert ask(str(site / "link" / "site.socket"), read_key(site / "link" / "site.key"), b"abc") == b"cba"

    assert as_user(NODE, [LINK], exchange) == "done"
    assert "PermissionError" in as_user(NODE, [LINK], (site / "site" / "train.jsonl").read_text)
    assert "PermissionError" in as_user(NODE, [LINK], (site / "link" / "site.socket").unlink)


def test_another_user_reaches_neither(site):
    assert "Permission denied" in as_user(STRANGER, [], lambda: read_key(site / "link" / "site.key"))
    key = read_key(site / "link" / "site.key")
    assert "PeerError" in as_user(STRANGER, [], lambda: ask(str(site / "link" / "site.socket"), key, b"abc"))
