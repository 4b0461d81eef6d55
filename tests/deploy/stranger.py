"""A stranger with `ca.crt` alone tries to get into a deployment, with the guide's own commands.

    python tests/deploy/stranger.py                      this checkout, behind the forwarder
    python tests/deploy/stranger.py --proxy nginx        behind nginx
    python tests/deploy/stranger.py --commit 7702f80     the deployment of another commit

Starts a SuperLink as that checkout does, with one honest node, and plays the stranger from a folder of its own. Says what
happened to each step; exit code 0 if every step was refused, 1 if one was not.
"""

import argparse
import os
import socket
import ssl
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

try:  # earlier commits have it in the package
    from fedlora.deploy.loopback import Loopback, free_port
except ModuleNotFoundError:
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from examples.loopback.processes import Loopback, free_port

ROOT = Path(__file__).parents[2]
MARK = "strangers_app"
"""The name of the app's package. Packed or not, the bytes of the app hold it."""
PROJECT = f"""
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "helpful"
version = "1.0.0"
description = "An app of nobody we know"
license = "Apache-2.0"
dependencies = ["flwr>=1.41,<2"]
[tool.flwr.app]
publisher = "stranger"
[tool.flwr.app.components]
serverapp = "{MARK}.server:app"
clientapp = "{MARK}.client:app"
[tool.flwr.app.config]
folder = ""
"""
SERVER = """
import time
from pathlib import Path
from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import ServerApp
app = ServerApp()
@app.main()
def main(grid, context):
    folder = context.run_config["folder"]
    (Path(folder) / "server").write_text("the stranger's code ran at the server")
    content = RecordDict({"told": ConfigRecord({"folder": folder})})
    orders = [Message(content, dst_node_id=node, message_type=MessageType.QUERY) for node in grid.get_node_ids()]
    list(grid.send_and_receive(orders, timeout=30))
"""
CLIENT = """
from pathlib import Path
from flwr.app import Message
from flwr.clientapp import ClientApp
app = ClientApp()
@app.query()
def answer(message, context):
    folder = Path(message.content["told"]["folder"])
    (folder / f"site-{context.node_id}").write_text(str(dict(context.node_config)))
    return Message(message.content, reply_to=message)
"""
PATHS = (
    "/v1/control/list-nodes",
    "/v1/fleet/../control/list-nodes",
    "/v1/fleet/%2e%2e/control/list-nodes",
    "/v1/fleet/..%2fcontrol/list-nodes",
    "//v1/control/list-nodes",
    "/v1/control/list-nodes?/v1/fleet/",
    "/v1/runtime/acquire-task",
    "/docs",
)


@dataclass(frozen=True)
class Step:
    """One thing that the stranger tried."""

    name: str
    refused: bool
    said: str


class Stranger:
    """Somebody on the network who has the authority's certificate and an address.

    Args:
        folder: of the stranger's own; must not be there.
        address: what the deployment shows to the network, `host:port`.
        authority: the file `ca.crt`.
    """

    def __init__(self, folder, address, authority):
        self.folder, self.address, self.authority = folder, address, folder / "ca.crt"
        self.key, self.prey = folder / "stranger", folder / "prey"
        self.prey.mkdir(parents=True)
        self.authority.write_bytes(authority.read_bytes())
        home, package = folder / "home", folder / "app" / MARK
        home.mkdir()
        connection = f'address = "{address}"\nroot-certificates = "{self.authority}"\n'
        (home / "config.toml").write_text(f'[superlink]\ndefault = "prey"\n\n[superlink.prey]\n{connection}')
        package.mkdir(parents=True)
        (package.parent / "pyproject.toml").write_text(PROJECT)
        for name, source in (("__init__", ""), ("server", SERVER), ("client", CLIENT)):
            (package / f"{name}.py").write_text(source)
        subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", self.key], check=True)

    def register(self):
        return self._flwr("register a node", "supernode", "register", f"{self.key}.pub", "prey")

    def list_nodes(self):
        return self._flwr("list the nodes", "supernode", "list", "prey")

    def start_app(self, patience=40.0):
        """Code at the server and at every site, if the run is taken."""
        told = f'folder="{self.prey}"'
        step = self._flwr("start an app", "run", str(self.folder / "app"), "prey", "--run-config", told)
        until = time.monotonic() + (0.0 if step.refused else patience)
        while not list(self.prey.glob("site-*")) and time.monotonic() < until:
            time.sleep(0.5)
        time.sleep(2)  # nodes poll every three seconds: the others have theirs about now
        return step

    def join(self, patience=60.0):
        """A node with the stranger's own key."""
        line = ["flower-supernode", "--superlink", self.address, "--root-certificates", str(self.authority)]
        line += ["--auth-supernode-private-key", str(self.key), "--port", str(free_port()), "--max-retries", "2"]
        said = self.folder / "node.log"
        with said.open("wb") as log:
            node = subprocess.Popen(_here(line), stdout=log, stderr=log, env=self._environment())
        try:
            until = time.monotonic() + patience
            while node.poll() is None and "SuperNode ID" not in said.read_text() and time.monotonic() < until:
                time.sleep(0.2)
            text = said.read_text()
            return Step("join as a node", node.poll() == 1 and "2004" in text, _telling(text, "2004", "SuperNode ID"))
        finally:
            node.terminate()
            node.wait(30)

    def ask(self):
        """Requests by hand, to all that is not for nodes, under every spelling that a proxy might take for it."""
        answers = {path: self._status(path) for path in PATHS}
        refused = all(status in {400, 403, 404} for status in answers.values())
        return Step("ask by hand", refused, ", ".join(f"{status} {path}" for path, status in answers.items()))

    def _status(self, path):
        host, _, port = self.address.rpartition(":")
        context = ssl.create_default_context(cafile=str(self.authority))
        head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/protobuf\r\nContent-Length: 0\r\n"
        with (
            socket.create_connection((host, int(port)), timeout=20) as plain,
            context.wrap_socket(plain, server_hostname=host) as secured,
        ):
            secured.sendall(f"{head}Connection: close\r\n\r\n".encode())
            return int(secured.makefile("rb").readline().split()[1])

    def _flwr(self, name, *words):
        done = subprocess.run(
            _here(["flwr", *words]), capture_output=True, text=True, env=self._environment(), check=False
        )
        text = done.stdout + done.stderr
        return Step(
            name, done.returncode != 0 and "403" in text, f"exit {done.returncode}: {_telling(text, '403', '✅')}"
        )

    def _environment(self):
        quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        return {**os.environ, **quiet, "FLWR_HOME": str(self.folder / "home"), "PATH": path, "COLUMNS": "200"}


def play(loopback, folder):
    """All that the stranger tries; the last steps look at what it got.

    Args:
        loopback: a deployment with a SuperLink and one node.
        folder: for the stranger.
    """
    one = Stranger(folder, loopback.address, loopback.keys / "ca.crt")
    steps = [one.register(), one.list_nodes(), one.join(), one.start_app(), one.ask()]
    got = {file.name: file.read_text() for file in sorted(one.prey.iterdir())}
    sites = [text for name, text in got.items() if name != "server"]
    steps.append(Step("code at the server", "server" not in got, got.get("server", "none")))
    steps.append(Step("code at a site", not sites, "; ".join(sites) or "none"))
    held = holding(loopback.folder, MARK.encode())
    steps.append(Step("bytes of its app anywhere", not held, ", ".join(held) or "none"))
    return steps


def holding(folder, words):
    """Files under a folder that hold some bytes."""
    found = []
    for file in sorted(folder.rglob("*")):
        with suppress(OSError):  # sockets, and what Flower removes meanwhile
            if file.is_file() and words in file.read_bytes():
                found.append(str(file.relative_to(folder)))
    return found


def start_honest(loopback, patience=60.0):
    """A SuperLink and one registered node, which is connected."""
    loopback.superlink()
    private = loopback.register("birch")
    loopback.supernode("birch", "127.0.0.1:1", loopback.keys / "none", private)
    loopback.wait_for("node-birch", "SuperNode ID", patience)


def _here(line):
    return [str(Path(sys.executable).parent / line[0]), *line[1:]]


def _telling(text, *words):
    """The first line that says one of some words, or else the last."""
    said = [line.strip(" \n│╭╮╰╯─") for line in text.splitlines() if line.strip(" \n│╭╮╰╯─┏┓┗┛━┘└")]
    telling = [line for line in said if any(word in line for word in words)]
    return (telling or said[-1:] or ["nothing"])[0][:200]


def _other_commit(commit):
    """Play against another commit's deployment: this file, with that commit's package."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "archive.tar"
        subprocess.run(["git", "-C", ROOT, "archive", "--output", archive, commit], check=True)
        with tarfile.open(archive) as packed:
            packed.extractall(Path(folder) / "checkout", filter="data")
        env = {**os.environ, "PYTHONPATH": str(Path(folder) / "checkout" / "src")}
        line = [sys.executable, __file__, "--proxy", "as the commit has it"]
        return subprocess.run(line, env=env, check=False).returncode


def main():
    reader = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    reader.add_argument("--commit", help="play against this commit's deployment")
    reader.add_argument("--proxy", default="forwarder", help="forwarder or nginx")
    own = reader.parse_args()
    if own.commit:
        return _other_commit(own.commit)
    import fedlora

    options = {}
    if own.proxy in {"forwarder", "nginx"}:
        from examples.loopback import proxies

        options = {"proxy": getattr(proxies, own.proxy)}
    print(f"the deployment of {Path(fedlora.__file__).parents[2]}, proxy: {own.proxy}", flush=True)
    with tempfile.TemporaryDirectory() as folder, Loopback(Path(folder) / "deployment", **options) as loopback:
        start_honest(loopback)
        steps = play(loopback, Path(folder) / "stranger")
    for step in steps:
        print(f"{'refused' if step.refused else 'GOT IN ':8} {step.name}: {step.said}")
    print(f"{sum(step.refused for step in steps)} of {len(steps)} steps refused")
    return 0 if all(step.refused for step in steps) else 1


if __name__ == "__main__":
    sys.exit(main())
