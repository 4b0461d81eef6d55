# SPDX-License-Identifier: Apache-2.0
"""The local socket between a node and its site's process.

The socket connects processes of one machine, both of which show that they hold the same key: each end sends a nonce
and gets back its HMAC under the key, bound to the end that made it. Nothing is unpickled, every wait for a peer that
owes an answer at once has a limit, no message longer than `LONGEST` is taken in, and peers that have not shown the key
cannot use up the files that a process may open. The bytes are not encrypted, so the socket is a file or on loopback,
never on a network. (`multiprocessing.connection` does this with MD5 in Python 3.11, and without a limit of time: there
a process that connects and says nothing keeps all others waiting.)
"""

import errno
import hashlib
import hmac
import os
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing, suppress
from ipaddress import ip_address
from pathlib import Path

from fedlora.deploy.log import complain
from fedlora.errors import ConfigError, FedloraError

_PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED, errno.EINTR})
"""What hinders taking in a connection now, and not for ever."""
LONGEST = 2**31
"""Bytes of a message, at most."""
_NONCE = 32
_PROMPT = 10.0
"""Seconds in which a peer must do what needs no thought."""
_MOST_UNKNOWN = 32
"""Peers that have not shown the key yet, at most; a further one takes the place of the oldest."""
_PAUSE = 0.2
"""Seconds to wait where no peer can be taken in, because the process may open no more files."""


class PeerError(FedloraError):
    """The process at the other end is not there, holds another key, or went away."""


def new_key(path: Path) -> bytes:
    """The key in a file, which is made, for its owner alone, where it is not there.

    Raises:
        ConfigError: it cannot be read or made, or is too short.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(_NONCE) + "\n")
        return read_key(path)
    except OSError as error:
        raise ConfigError(f"The key file {path} cannot be made: {error.strerror}.") from error


def read_key(path: Path) -> bytes:
    """The key in a file.

    Raises:
        ConfigError: it cannot be read, or is too short.
    """
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(
            f"The key file {path} cannot be read: {error.strerror}. The site makes it when it starts."
        ) from error
    if len(key) < _NONCE:
        raise ConfigError(f"The key file {path} holds {len(key)} bytes, expected at least {_NONCE}: delete it.")
    return key


def open_socket(address: str) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigError: the address is not local, or taken.
    """
    family, place = parse_address(address)
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family == socket.AF_UNIX:
            _remove_socket(Path(address))
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen()
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"site.address is {address!r}, which cannot be listened on: {error.strerror or error}."
        ) from error
    if family == socket.AF_UNIX:
        Path(address).chmod(0o660)  # a node of another user comes in by the folder's group, if it may read the key
    return listener


def _remove_socket(path: Path) -> None:
    """Remove a socket that a kill left behind (the site's folder is held by one process), and nothing else."""
    if path.is_socket():
        path.unlink()
    elif os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, "what lies there is no socket, so choose a path where nothing is")


def parse_address(address: str) -> tuple[socket.AddressFamily, str | tuple[str, int]]:
    """What a socket needs of `host:port` or of a file's path.

    Raises:
        ConfigError: the host is not this machine.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        return socket.AF_UNIX, address
    try:
        host_address = ip_address("127.0.0.1" if host == "localhost" else host.strip("[]"))
    except ValueError:
        host_address = None
    if host_address is None or not host_address.is_loopback:
        raise ConfigError(
            f"site.address is {address!r}, expected a file, or loopback such as 127.0.0.1:9301: what passes there is "
            f"not encrypted."
        )
    return (socket.AF_INET6 if host_address.version == 6 else socket.AF_INET), (str(host_address), int(port))


def serve_bytes(listener: socket.socket, key: bytes, answer: Callable[[bytes], bytes]) -> None:
    """Answer peers, each in a thread of its own, until the listener is closed.

    Args:
        listener: from `open_socket`.
        key: what peers must hold.
        answer: is called from many threads.
    """
    unknown = _Unknown()
    troubled = False
    while True:
        try:
            peer, _ = listener.accept()
        except OSError as error:
            if listener.fileno() < 0 or error.errno not in _PASSING:
                return
            if not troubled:
                complain(f"no connection can be taken in: {error.strerror}; trying on")
            troubled = True
            time.sleep(_PAUSE)
            continue
        troubled = False
        unknown.add(peer)
        threading.Thread(target=_serve_peer, args=(peer, key, answer, unknown), daemon=True).start()


class _Unknown:
    """The peers that have not shown the key yet."""

    def __init__(self) -> None:
        self._lock, self._peers = threading.Lock(), deque[socket.socket]()

    def add(self, peer: socket.socket) -> None:
        """One more; the oldest lose their connections where there are too many."""
        with self._lock:
            self._peers.append(peer)
            while len(self._peers) > _MOST_UNKNOWN:
                with suppress(OSError):  # its thread closes it
                    self._peers.popleft().shutdown(socket.SHUT_RDWR)

    def remove(self, peer: socket.socket) -> None:
        """One that is known now, or has gone."""
        with self._lock, suppress(ValueError):
            self._peers.remove(peer)


def _serve_peer(peer: socket.socket, key: bytes, answer: Callable[[bytes], bytes], unknown: _Unknown) -> None:
    with closing(peer), suppress(OSError, PeerError):
        try:
            _agree(peer, key, b"site", b"caller")
        finally:
            unknown.remove(peer)
        peer.settimeout(_PROMPT)
        _send(peer, answer(_receive(peer)))


def ask(address: str, key: bytes, data: bytes, patience: float | None = None) -> bytes:
    """Send bytes to a site's process and wait for its answer.

    Args:
        address: of the site.
        key: what both hold.
        data: the question.
        patience: seconds to wait for the answer; None: for ever.

    Raises:
        PeerError: nobody is there, it holds another key, it went away, or did not answer in time.
    """
    family, place = parse_address(address)
    try:
        with closing(socket.socket(family, socket.SOCK_STREAM)) as peer:
            peer.settimeout(_PROMPT)
            peer.connect(place)
            _agree(peer, key, b"caller", b"site")
            _send(peer, data)
            peer.settimeout(patience)
            return _receive(peer)
    except TimeoutError as error:
        raise PeerError("the site's process did not answer in time") from error
    except OSError as error:
        raise PeerError("the site's process is not running") from error


def _agree(peer: socket.socket, key: bytes, this_end: bytes, other_end: bytes) -> None:
    """Show the other end that this one holds the key, and see that it does; all of it within `_PROMPT`."""
    peer.settimeout(_PROMPT)
    until = time.monotonic() + _PROMPT
    nonce = secrets.token_bytes(_NONCE)
    peer.sendall(nonce)
    theirs = _exactly(peer, _NONCE, until)
    peer.sendall(_proof(key, this_end, theirs, nonce))
    if not hmac.compare_digest(_exactly(peer, _NONCE, until), _proof(key, other_end, nonce, theirs)):
        raise PeerError("the other end holds another key")


def _proof(key: bytes, who: bytes, challenge: bytes, nonce: bytes) -> bytes:
    return hmac.digest(key, who + challenge + nonce, hashlib.sha256)


def _send(peer: socket.socket, data: bytes) -> None:
    peer.sendall(len(data).to_bytes(8, "big") + data)


def _receive(peer: socket.socket) -> bytes:
    length = int.from_bytes(_exactly(peer, 8), "big")
    if length > LONGEST:
        raise PeerError(f"a message of {length} bytes is too long")
    return _exactly(peer, length)


def _exactly(peer: socket.socket, count: int, until: float | None = None) -> bytes:
    """So many bytes; `until`: when all of them must be there, for a peer could send one at a time."""
    parts = []
    while count:
        if until is not None:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            peer.settimeout(left)
        part = peer.recv(min(count, 2**20))
        if not part:
            raise PeerError("the other end went away")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
