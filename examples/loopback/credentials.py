# SPDX-License-Identifier: Apache-2.0
"""What TLS, node authentication and signed apps need, made with openssl and ssh-keygen.

The same commands stand in docs/deploy.md, for three real machines.
"""

import shutil
import subprocess
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from fedlora.errors import UserError

CURVE = "ec_paramgen_curve:P-384"
DAYS = "365"


def make_authority(folder: Path) -> Path:
    """`ca.key` and `ca.crt`; returns the certificate."""
    folder.mkdir(parents=True, exist_ok=True)
    certificate = folder / "ca.crt"
    extensions = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    subject = ["-subj", "/CN=fedlora authority", "-days", DAYS]
    fresh = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", CURVE, "-nodes", "-sha384"]
    _call([*fresh, *subject, *extensions, "-keyout", folder / "ca.key", "-out", certificate])
    return certificate


def make_certificate(folder: Path, hosts: Sequence[str]) -> tuple[Path, Path]:
    """`server.crt`, signed by the folder's authority for some names or addresses, and `server.key`."""
    request, certificate, key = folder / "server.csr", folder / "server.crt", folder / "server.key"
    named = ",".join(f"{'IP' if _is_address(host) else 'DNS'}:{host}" for host in hosts)
    asked = ["-subj", f"/CN={hosts[0]}", "-addext", f"subjectAltName={named}"]
    fresh = ["openssl", "req", "-newkey", "ec", "-pkeyopt", CURVE, "-nodes"]
    _call([*fresh, *asked, "-keyout", key, "-out", request])
    signer = ["-CA", str(folder / "ca.crt"), "-CAkey", str(folder / "ca.key"), "-CAcreateserial", "-days", DAYS]
    signed = ["openssl", "x509", "-req", "-sha384", "-copy_extensions", "copy", *signer]
    _call([*signed, "-in", request, "-out", certificate])
    return certificate, key


def make_node_key(path: Path) -> tuple[Path, Path]:
    """A SuperNode's private key, and the public one that the SuperLink is told."""
    return _make_key(path, "ecdsa", "-b", "384")


def make_signing_key(path: Path) -> tuple[Path, Path]:
    """The private key that signs an app, and the public one that nodes are told."""
    return _make_key(path, "ed25519")


def _make_key(path: Path, *kind: str) -> tuple[Path, Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    _call(["ssh-keygen", "-q", "-t", *kind, "-N", "", "-C", path.name, "-f", path])
    return path, path.with_name(f"{path.name}.pub")


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _call(command: Sequence[str | Path]) -> None:
    if shutil.which(str(command[0])) is None:
        raise UserError(f"{command[0]} is not installed: install it, it makes the keys and certificates.")
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{command[0]} failed: {done.stderr.strip().splitlines()[-1]}")
