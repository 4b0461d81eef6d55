"""Real sockets: who holds the key is answered, and nobody else holds anything up."""

import socket
import threading
import time

import pytest

from fedlora.deploy.sockets import PeerError, ask, new_key, open_socket, parse_address, serve_bytes
from fedlora.errors import ConfigError, PayloadError
from fedlora.federation.frame import Frame, decode_frame, encode_frame


@pytest.fixture(params=["file", "loopback"])
def echo(request, tmp_path):
    key = new_key(tmp_path / "key")
    if request.param == "file":
        address = str(tmp_path / "echo.socket")
        listener = open_socket(address)
    else:
        listener = open_socket("127.0.0.1:0")
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    threading.Thread(target=serve_bytes, args=(listener, key, lambda data: data[::-1]), daemon=True).start()
    yield address, key
    listener.close()


def test_bytes_there_and_back(echo):
    address, key = echo
    assert ask(address, key, b"abc" * 1_000_000) == b"cba" * 1_000_000


def test_another_key_is_refused(echo):
    address, _ = echo
    with pytest.raises(PeerError, match=r"another key|went away"):
        ask(address, b"x" * 64, b"abc")


def test_who_says_nothing_holds_nobody_up(echo):
    address, key = echo
    family, place = parse_address(address)
    with socket.socket(family) as silent:
        silent.connect(place)
        started = time.monotonic()
        assert ask(address, key, b"abc") == b"cba"
        assert time.monotonic() - started < 5


def test_garbage_is_no_handshake(echo):
    address, key = echo
    family, place = parse_address(address)
    with socket.socket(family) as rude:
        rude.connect(place)
        rude.sendall(b"GET / HTTP/1.0\r\n" + b"x" * 4096)
    assert ask(address, key, b"abc") == b"cba"


def test_nobody_there(tmp_path):
    with pytest.raises(PeerError, match="not running"):
        ask(str(tmp_path / "none.socket"), b"k" * 64, b"abc")


def test_the_key_is_its_owners_alone(tmp_path):
    new_key(tmp_path / "key")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert new_key(tmp_path / "key") == new_key(tmp_path / "key")


@pytest.mark.parametrize("address", ["10.1.2.3:9000", "example.org:9000", "0.0.0.0:9000"])
def test_only_this_machine(address):
    with pytest.raises(ConfigError, match="expected a file, or loopback"):
        parse_address(address)


def test_messages_survive_and_damage_is_seen():
    message = Frame("order", {"number": [1, 2], "text": "ä"}, b"\x00payload")
    data = encode_frame(message).data
    back = decode_frame(data)
    assert (back.kind, back.fields, back.payload) == (message.kind, message.fields, message.payload)
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1
        with pytest.raises(PayloadError):
            decode_frame(bytes(damaged))
    for cut in range(len(data)):
        with pytest.raises(PayloadError):
            decode_frame(data[:cut])
