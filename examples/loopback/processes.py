# SPDX-License-Identifier: Apache-2.0
"""A whole deployment on this machine: SuperLink, proxy, SuperNodes and sites as processes, over TLS, with node keys.

As in docs/deploy.md the SuperLink listens where only this machine's users reach it, nodes connect to a proxy that
passes the Fleet API alone, and they run only the app that was signed here. Every process is started in a group of its
own, with files for its user alone (umask 077), and what was started is stopped, group by group, when the block ends,
however it ends.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from fedlora.deploy.app_files import APP
from fedlora.errors import FedloraError

from .credentials import make_authority, make_certificate, make_node_key, make_signing_key
from .proxies import ProxyEnds, forwarder

_POLITE = 10.0
_UMASK = 0o077
_SIGNED_APP = [sys.executable, "-m", "fedlora.deploy.flower.signed_app"]


class Loopback:
    """The processes of one deployment.

    Args:
        folder: for keys, logs and Flower's own files; must not be there.
        app: the Flower app.
        proxy: gives the command of the proxy, see `proxies.py`.
    """

    def __init__(self, folder: Path, app: Path = APP, proxy: Callable[[ProxyEnds], Sequence[str]] = forwarder) -> None:
        self.folder, self.keys = folder.absolute(), folder.absolute() / "keys"
        self.address = f"127.0.0.1:{free_port()}"
        """Where nodes connect: the proxy."""
        self.control = f"127.0.0.1:{free_port()}"
        """Where the operator's `flwr` connects: the SuperLink itself."""
        self.trusted = self.keys / "trusted.yaml"
        """Whose apps the nodes run."""
        self._app, self._proxy, self._hub = app, proxy, f"127.0.0.1:{free_port()}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._said: dict[str, int] = {}
        """Bytes of a process's log from before it was started."""

    def __enter__(self) -> "Loopback":
        """Make authority, certificate and a signed app; nothing is started yet."""
        (self.folder / "logs").mkdir(parents=True)
        self.folder.chmod(0o700)
        make_authority(self.keys)
        make_certificate(self.keys, ["127.0.0.1", "localhost"])
        home = self.folder / "home"
        home.mkdir()
        told = f'[superlink]\ndefault = "own"\n\n[superlink.own]\naddress = "{self.control}"\n'
        (home / "config.toml").write_text(f'{told}root-certificates = "{self.keys / "ca.crt"}"\n', encoding="utf-8")
        self._sign()
        return self

    def _sign(self) -> None:
        """Build the app, and sign it with a key that the nodes trust."""
        built = self.folder / "app"
        built.mkdir()
        done = self._call(["flwr", "build", "--app", str(self._app)], built)
        if done.returncode:
            raise FedloraError(f"The app {self._app} could not be built: {done.stdout[-500:]}")
        (self._bundle,) = built.glob("*.fab")
        private, _ = make_signing_key(self.keys / "reviewer")
        signed = self._call([*_SIGNED_APP, "sign", str(self._bundle), str(private)])
        if signed.returncode:
            raise FedloraError(f"The app could not be signed: {signed.stdout[-500:]}")
        self.trusted.write_text(signed.stdout, encoding="utf-8")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop everything, the newest first."""
        for name in reversed(list(self._processes)):
            self.stop(name)

    def superlink(self) -> None:
        """Start the SuperLink, and what stands beside it unless that runs; the SuperLink's database outlives it."""
        if "apps" not in self._processes:
            self.start("apps", [*_SIGNED_APP, "serve", str(self._bundle), self._hub])
            self._wait_for_port("apps", self._hub)
        host, _, port = self.control.rpartition(":")
        secured = ["--ssl-ca-certfile", "ca.crt", "--ssl-certfile", "server.crt", "--ssl-keyfile", "server.key"]
        secured = [str(self.keys / word) if not word.startswith("--") else word for word in secured]
        line = ["flower-superlink", "--host", host, "--port", port, "--enable-supernode-auth", *secured]
        line += ["--disable-runtime-dependency-installation", "--database", str(self.folder / "superlink.sqlite")]
        self.start("superlink", line)
        self._wait_for_port("superlink", self.control)
        if "proxy" not in self._processes:
            self.start("proxy", self._proxy(ProxyEnds(self.address, self.control, self.keys)))
            self._wait_for_port("proxy", self.address)

    def register(self, name: str) -> Path:
        """Make a node's key and tell the SuperLink; returns the private key."""
        private, public = make_node_key(self.keys / f"node-{name}")
        done = self.flwr("supernode", "register", str(public), "own")
        if done.returncode:
            raise FedloraError(f"The key of node {name} could not be registered: {done.stdout[-500:]}")
        return private

    def supernode(self, name: str, site: str, key: Path, private: Path, authority: Path | None = None) -> None:
        """Start a SuperNode that forwards to a site, and runs nothing but the signed app.

        Args:
            name: of the site.
            site: the address that its SITE.toml names.
            key: the file with the socket's key.
            private: the node's private key.
            authority: whom it trusts; None: the SuperLink's own.
        """
        trusted = ["--root-certificates", str(authority or self.keys / "ca.crt"), "--max-retries", "5"]
        line = ["flower-supernode", "--superlink", self.address, *trusted, "--port", str(free_port())]
        line += ["--trusted-entities", str(self.trusted)]
        config = f'site="{site}" key="{key}"'
        line += ["--auth-supernode-private-key", str(private), "--node-config", config]
        self.start(f"node-{name}", line)

    def site(self, name: str, path: Path, patience: float = 120.0) -> None:
        """Start a site's process and wait until it can be asked."""
        self.start(f"site-{name}", ["fedlora", "site", str(path)])
        self.wait_for(f"site-{name}", "is ready at", patience)

    def run(self, settings: Mapping[str, str | bool]) -> "subprocess.Popen[str]":
        """Start `flwr run` of the signed app, which streams what the ServerApp says."""
        told = " ".join(f"{key}={_toml(value)}" for key, value in settings.items())
        line = [_command("flwr"), "run", _identity(self._app), "own", "--stream", "--run-config", told]
        return subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.environment(), umask=_UMASK
        )

    def flwr(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Call Flower's command line, as the server's operator."""
        return self._call(["flwr", *words])

    def _call(self, line: Sequence[str], where: Path | None = None) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [_command(line[0]), *line[1:]],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment(),
            cwd=where,
            umask=_UMASK,
            check=False,
        )

    def environment(self) -> dict[str, str]:
        """For Flower's processes: its own home, no telemetry, no look for updates, our commands first."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
        quiet["FLWR_SUPERGRID_API_URL"] = f"http://{self._hub}"
        return {**os.environ, **quiet, "FLWR_HOME": str(self.folder / "home"), "PATH": path}

    def start(self, name: str, line: Sequence[str]) -> None:
        """Start a process of a group of its own, with what it says in `logs/NAME.log`."""
        with (self.folder / "logs" / f"{name}.log").open("ab") as log:
            self._said[name] = log.tell()
            self._processes[name] = subprocess.Popen(
                [_command(line[0]), *line[1:]],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=self.environment(),
                start_new_session=True,
                umask=_UMASK,
            )

    def process(self, name: str) -> "subprocess.Popen[bytes]":
        """One that was started."""
        return self._processes[name]

    def log(self, name: str) -> str:
        """What a process has said since it was started."""
        whole = (self.folder / "logs" / f"{name}.log").read_bytes()
        return whole[self._said[name] :].decode(errors="replace")

    def stop(self, name: str) -> None:
        """Ask a process and its children to stop, and make them after a while."""
        process = self._processes.pop(name)
        for number, patience in ((signal.SIGTERM, _POLITE), (signal.SIGKILL, _POLITE)):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(patience)
        process.poll()

    def wait_for(self, name: str, words: str, patience: float) -> None:
        """Wait until a process has said something.

        Raises:
            FedloraError: it ended first, or did not say it in time.
        """
        until = time.monotonic() + patience
        while words not in self.log(name):
            if self._processes[name].poll() is not None or time.monotonic() > until:
                said = [line for line in self.log(name).splitlines() if line.strip()]
                raise FedloraError(f"{name} did not get ready: {said[-1] if said else 'it said nothing'}")
            time.sleep(0.1)

    def _wait_for_port(self, name: str, address: str, patience: float = 60.0) -> None:
        host, _, port = address.rpartition(":")
        until = time.monotonic() + patience
        while self._processes[name].poll() is None and time.monotonic() < until:
            with suppress(OSError), socket.create_connection((host, int(port)), timeout=1.0):
                return
            time.sleep(0.2)
        raise FedloraError(f"{name} did not get ready: see {self.folder / 'logs'}")


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _command(name: str) -> str:
    """A command of this environment, or of the system where this environment has none."""
    here = Path(sys.executable).parent / name
    return str(here) if here.exists() else shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin") or name


def _identity(app: Path) -> str:
    """What `flwr run` calls an app that does not come from a folder."""
    about = tomllib.loads((app / "pyproject.toml").read_text(encoding="utf-8"))
    project = about["project"]
    return f"@{about['tool']['flwr']['app']['publisher']}/{project['name']}=={project['version']}"


def _toml(value: str | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else f'"{value}"'
