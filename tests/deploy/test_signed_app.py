"""An app is run where a trusted key has signed these very bytes, by Flower's own judgement."""

import hashlib
import json
import re
import subprocess
import sys
import threading
from http.server import ThreadingHTTPServer
from urllib.request import urlopen

import pytest
from examples.loopback.credentials import make_node_key, make_signing_key
from examples.loopback.processes import free_port

from fedlora.errors import UserError

pytest.importorskip("flwr", reason="Flower is not installed: pip install fedlora[flower]")

from fedlora.deploy.flower.signed_app import serve_app, sign_app


@pytest.fixture
def app(tmp_path):
    path = tmp_path / "app.fab"
    path.write_bytes(b"an app")
    return path


def judged(app, *trusted):
    """Flower's own verdict on an app and our signatures."""
    import yaml
    from flwr.supercore.fab import Fab
    from flwr.supernode.start_client_internal import _verify_fab

    content = app.read_bytes()
    signatures = json.loads(app.with_name("app.fab.signatures.json").read_text())
    named = {own["public_key_id"]: json.dumps(own) for own in signatures}
    entities = yaml.safe_load("\n".join(trusted))
    return _verify_fab(Fab(hashlib.sha256(content).hexdigest(), content, {"valid_license": "Valid", **named}), entities)


def test_flower_accepts_the_signature_of_a_trusted_key_alone(app, tmp_path):
    one, other = (sign_app(app, make_signing_key(tmp_path / name)[0]) for name in ("one", "other"))
    third = tmp_path / "third.fab"
    third.write_bytes(b"another app")
    stranger = sign_app(third, make_signing_key(tmp_path / "stranger")[0])
    assert judged(app, one)
    assert judged(app, other)
    assert not judged(app, stranger)
    app.write_bytes(b"an app, changed")
    assert not judged(app, one, other)


def test_an_app_that_was_built_anew_loses_its_old_signatures(app, tmp_path):
    keys = [make_signing_key(tmp_path / name)[0] for name in ("one", "other")]
    for key in (*keys, keys[0]):
        sign_app(app, key)
    assert len(json.loads((tmp_path / "app.fab.signatures.json").read_text())) == 2
    app.write_bytes(b"a new app")
    sign_app(app, keys[0])
    assert len(json.loads((tmp_path / "app.fab.signatures.json").read_text())) == 1


def test_what_is_no_key_is_a_sentence(app, tmp_path):
    with pytest.raises(UserError, match=r"cannot be used to sign: Private key is not Ed25519"):
        sign_app(app, make_node_key(tmp_path / "node")[0])
    with pytest.raises(UserError, match=r"none\.pub cannot be read"):
        sign_app(app, tmp_path / "none")


def test_it_is_served_to_this_machine_alone(app, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"The address is '0.0.0.0:8002', expected 127.0.0.1:PORT"):
        serve_app(app, "0.0.0.0:8002")
    with pytest.raises(UserError, match="Build and sign the app first"):
        serve_app(app, "127.0.0.1:8002")
    sign_app(app, make_signing_key(tmp_path / "one")[0])
    started, serve = threading.Event(), ThreadingHTTPServer.serve_forever
    servers = []

    def watched(server):
        servers.append(server)
        started.set()
        serve(server)

    monkeypatch.setattr(ThreadingHTTPServer, "serve_forever", watched)
    address = f"127.0.0.1:{free_port()}"
    thread = threading.Thread(target=serve_app, args=(app, address))
    thread.start()
    assert started.wait(10)
    try:
        with urlopen(f"http://{address}/hub/fetch-fab", data=b'{"app_id": "x"}') as answer:
            described = json.load(answer)
        with urlopen(described["fab_url"]) as answer:
            assert answer.read() == b"an app"
        assert len(described["verifications"]) == 1
    finally:
        servers[0].shutdown()
        thread.join()


def test_the_command_line_says_what_it_expects():
    line = [sys.executable, "-m", "fedlora.deploy.flower.signed_app", "sing", "it"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert re.fullmatch(r"fedlora: Expected `sign APP.fab KEY` or .*\n", done.stderr)
