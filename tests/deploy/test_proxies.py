"""Forwarder and nginx pass what nodes send, bit for bit, and refuse the rest."""

import shutil
import ssl
import subprocess
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from examples.loopback.credentials import make_authority, make_certificate
from examples.loopback.processes import free_port
from examples.loopback.proxies import ProxyEnds, forwarder, nginx

httpx = pytest.importorskip("httpx", reason="Flower is not installed: pip install fedlora[flower]")
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
ASKED = []


class Echo(BaseHTTPRequestHandler):
    """A SuperLink's stand-in: gives back the body, and a header."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        ASKED.append((self.path, self.headers))
        self.send_response(201)
        self.send_header("x-told", self.headers.get("x-signed", ""))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def start(proxy, ends):
    """A proxy's process."""
    line = list(proxy(ends))
    return subprocess.Popen([NGINX if line[0] == "nginx" else line[0], *line[1:]], stderr=subprocess.PIPE, text=True)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(forwarder, id="forwarder"),
        pytest.param(nginx, id="nginx", marks=pytest.mark.skipif(NGINX is None, reason="nginx is not installed")),
    ],
)
def proxy(request):
    return request.param


@pytest.fixture(scope="module")
def ends(proxy, tmp_path_factory):
    keys = tmp_path_factory.mktemp("keys")
    make_authority(keys)
    certificate, key = make_certificate(keys, ["127.0.0.1", "localhost"])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    both = ProxyEnds(f"127.0.0.1:{free_port()}", f"127.0.0.1:{server.server_port}", keys)
    process = start(proxy, both)
    yield both
    process.terminate()
    process.communicate(timeout=20)
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def client(ends):
    trusted = ssl.create_default_context(cafile=str(ends.keys / "ca.crt"))
    with httpx.Client(base_url=f"https://{ends.listen}", verify=trusted, timeout=30, trust_env=False) as made:
        until = time.monotonic() + 30
        while True:
            try:
                made.post("/v1/fleet/ready", content=b"")
                break
            except httpx.ConnectError:
                assert time.monotonic() < until
                time.sleep(0.1)
        yield made


def test_bytes_and_headers_there_and_back(client):
    body = bytes(range(256)) * 40_000  # 10 MB
    answer = client.post("/v1/fleet/push-object", content=body, headers={"x-signed": "yes"})
    assert (answer.status_code, answer.headers["x-told"]) == (201, "yes")
    assert answer.content == body


REFUSED = (
    "/v1/control/start-run",
    "/v1/fleet/../control/start-run",
    "/v1/fleet/%2e%2e/control/start-run",
    "/V1/fleet/pull-messages",
    "/v1/fleet",
    "/v1/runtime/acquire-task",
    "/docs",
    "/",
)


@pytest.mark.parametrize("path", REFUSED)
def test_all_else_is_refused_before_the_superlink(client, path):
    ASKED.clear()
    exactly = httpx.URL(client.base_url).copy_with(raw_path=path.encode())
    assert client.send(client.build_request("POST", exactly)).status_code == 403
    assert ASKED == []


def test_a_request_without_end_is_refused(client):
    ASKED.clear()
    with suppress(httpx.WriteError):  # it was answered and closed before all was sent
        assert client.post("/v1/fleet/push-object", content=b"x" * (17 * 2**20)).status_code == 413
    assert ASKED == []


def test_a_superlink_that_is_away_is_said_so(proxy, ends):
    away = ProxyEnds(f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}", ends.keys)
    process = start(proxy, away)
    trusted = ssl.create_default_context(cafile=str(ends.keys / "ca.crt"))
    until = time.monotonic() + 30
    try:
        while True:
            try:
                status = httpx.post(
                    f"https://{away.listen}/v1/fleet/a", content=b"", verify=trusted, trust_env=False
                ).status_code
                break
            except httpx.ConnectError:
                assert time.monotonic() < until
                time.sleep(0.1)
        assert status == 502
    finally:
        process.terminate()
        _, said = process.communicate(timeout=20)
    told = {forwarder: "fedlora: the SuperLink cannot be reached: ConnectError", nginx: "Connection refused"}
    assert told[proxy] in said
