# SPDX-License-Identifier: Apache-2.0
"""Sign a Flower app and serve it to a SuperLink on the same machine, so that nodes can be told whose apps to run.

    python -m fedlora.deploy.flower.signed_app sign APP.fab KEY            prints what goes into trusted.yaml
    python -m fedlora.deploy.flower.signed_app serve APP.fab 127.0.0.1:PORT

A SuperNode with `--trusted-entities` runs only apps that one of the named keys has signed, but a SuperLink hands on
signatures only of apps that it gets from Flower Hub. `serve` stands in for the Hub: a SuperLink that was started with
`FLWR_SUPERGRID_API_URL=http://127.0.0.1:PORT` gets the app and its signatures from here. The nodes check the signatures
themselves; who serves the app cannot change it.
"""

import base64
import hashlib
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from flwr.supercore.primitives.asymmetric_ed25519 import create_message_to_sign, load_private_key, sign_message

from fedlora.errors import FedloraError, UserError

_LONGEST_REQUEST = 64 * 1024


def sign_app(app: Path, key: Path) -> str:
    """Add a signature to `APP.fab.signatures.json`.

    Args:
        app: what `flwr build` made.
        key: an Ed25519 private key, as `ssh-keygen -t ed25519` makes it; its public half lies beside it.

    Returns:
        The line for the nodes' file of trusted entities.

    Raises:
        UserError: a file cannot be read, or the key is none.
    """
    try:
        public = " ".join(key.with_name(f"{key.name}.pub").read_text(encoding="utf-8").split()[:2])
        signed_at = int(time.time())
        digest = hashlib.sha256(app.read_bytes()).digest()
        signature = sign_message(load_private_key(key), create_message_to_sign(digest, signed_at))
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UserError(
            f"{key} cannot be used to sign: {error}. Make a key with: ssh-keygen -t ed25519 -N '' -f {key.name}"
        ) from error
    name = f"fpk_{hashlib.sha256(public.encode()).hexdigest()[:32]}"
    written = _signatures(app)
    others = json.loads(written.read_text(encoding="utf-8")) if written.exists() else []
    # An app that was built anew needs new signatures of everyone: those of other bytes would not be accepted anyway.
    kept = [one for one in others if one["sha256"] == digest.hex() and one["public_key_id"] != name]
    encoded = base64.urlsafe_b64encode(signature).rstrip(b"=").decode()
    kept.append({"public_key_id": name, "signature": encoded, "signed_at": signed_at, "sha256": digest.hex()})
    written.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return f'{name}: "{public}"'


def serve_app(app: Path, address: str) -> None:
    """Answer a SuperLink's requests for the app until the process is stopped.

    Args:
        app: a signed app.
        address: `127.0.0.1:PORT`, or another of loopback.

    Raises:
        UserError: a file cannot be read, or the address is not loopback.
    """
    host, _, port = address.rpartition(":")
    if host not in {"127.0.0.1", "localhost"} or not port.isdigit():
        raise UserError(f"The address is {address!r}, expected 127.0.0.1:PORT: only the SuperLink beside it may ask.")
    try:
        content, signatures = app.read_bytes(), json.loads(_signatures(app).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}. Build and sign the app first.") from error
    described = {"fab_url": f"http://{address}/app.fab", "verifications": signatures}

    class Handler(BaseHTTPRequestHandler):
        """The two requests that a SuperLink makes."""

        def do_POST(self) -> None:
            """Where the app is and who signed it."""
            self.rfile.read(min(int(self.headers.get("Content-Length", "0")), _LONGEST_REQUEST))
            self._answer(json.dumps(described).encode() if self.path == "/hub/fetch-fab" else None)

        def do_GET(self) -> None:
            """The app."""
            self._answer(content if self.path == "/app.fab" else None)

        def _answer(self, body: bytes | None) -> None:
            self.send_response(200 if body is not None else 404)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing of single requests: the SuperLink does."""

    with ThreadingHTTPServer((host, int(port)), Handler) as server:
        print(f"fedlora: serves {app.name} with {len(signatures)} signatures at {address}", flush=True)
        server.serve_forever()


def _signatures(app: Path) -> Path:
    return app.with_name(f"{app.name}.signatures.json")


def main(words: list[str]) -> None:
    """The command line: see the top of this file.

    Raises:
        UserError: it names neither `sign` nor `serve`, or what these raise.
    """
    match words:
        case ["sign", app, key]:
            print(sign_app(Path(app), Path(key)))
        case ["serve", app, address]:
            serve_app(Path(app), address)
        case _:
            raise UserError("Expected `sign APP.fab KEY` or `serve APP.fab 127.0.0.1:PORT`.")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except FedloraError as error:
        print(f"fedlora: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(0)
