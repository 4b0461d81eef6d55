# SPDX-License-Identifier: Apache-2.0
"""Where the clients of a simulation keep what they keep: of each, the newest client state and the one before.

The older one is there for an order that is repeated, after a crash or a lost reply: it starts from the
same client state and gives the same bytes.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from fedlora.core.payload import Payload, Tree, branch, from_bytes, tensors_at, to_bytes
from fedlora.core.rounds import ClientState
from fedlora.errors import PayloadError, RunFolderError
from fedlora.federation.files import file_name, write_whole
from fedlora.run_files import read_object

_CACHED = 8
"""Decoded blobs kept at hand. Clients share blobs, so a few serve a whole round."""


class ClientStates(Protocol):
    """What a transport needs of it."""

    def before(self, client: str, round: int) -> ClientState | None:
        """The newest client state that is older than a round."""
        ...

    def latest(self, client: str) -> ClientState | None:
        """The newest client state."""
        ...

    def keep(self, client: str, client_state: ClientState) -> None:
        """Add a round's client state; one of the same or a later round is replaced."""
        ...


class HeldClientStates:
    """In this process only."""

    def __init__(self, kept: Mapping[str, Sequence[ClientState]] | None = None) -> None:
        self._kept = {client: list(client_states) for client, client_states in (kept or {}).items()}

    def before(self, client: str, round: int) -> ClientState | None:
        """The newest client state that is older than a round."""
        older = [client_state for client_state in self._kept.get(client, ()) if client_state.round < round]
        return older[-1] if older else None

    def latest(self, client: str) -> ClientState | None:
        """The newest client state."""
        client_states = self._kept.get(client)
        return client_states[-1] if client_states else None

    def keep(self, client: str, client_state: ClientState) -> None:
        """Add a round's client state; one of the same or a later round is replaced."""
        older = [state for state in self._kept.get(client, ()) if state.round < client_state.round]
        self._kept[client] = [*older[-1:], client_state]

    def all(self) -> dict[str, tuple[ClientState, ...]]:
        """Everything kept, by client."""
        return {client: tuple(client_states) for client, client_states in self._kept.items()}


class StoredClientStates:
    """On disk: `CLIENT.ROUND.json` (CLIENT as a file's name) names the blobs of a client state; `blobs/` holds them.

    A blob is one branch of what a client keeps, named by its content. What many clients keep alike (the
    shared adapter of a round) is there once, and a blob that no client state names is removed.

    Args:
        folder: is made if it is not there.
        until: forget client states of later rounds; they belong to a round that was never finished.
    """

    def __init__(self, folder: Path, until: int | None = None) -> None:
        self._folder, self._blobs = folder, folder / "blobs"
        self._blobs.mkdir(parents=True, exist_ok=True)
        self._rounds: dict[str, list[int]] = {}
        """By client, under its file's name."""
        self._users: dict[str, int] = {}
        self._cache: OrderedDict[str, Tree] = OrderedDict()
        for index in sorted(folder.glob("*.json")):
            client, round = _parse(index)
            if until is not None and round > until:
                index.unlink()
                continue
            self._rounds.setdefault(client, []).append(round)
            self._count(self._names(client, round), 1)
        for rounds in self._rounds.values():
            rounds.sort()
        for blob in self._blobs.iterdir():
            if blob.name not in self._users:
                blob.unlink()

    def before(self, client: str, round: int) -> ClientState | None:
        """The newest client state that is older than a round."""
        name = file_name(client)
        older = [number for number in self._rounds.get(name, ()) if number < round]
        return self._read(name, older[-1]) if older else None

    def latest(self, client: str) -> ClientState | None:
        """The newest client state."""
        name = file_name(client)
        rounds = self._rounds.get(name)
        return self._read(name, rounds[-1]) if rounds else None

    def keep(self, client: str, client_state: ClientState) -> None:
        """Add a round's client state; one of the same or a later round is replaced."""
        name = file_name(client)
        blobs = {key: self._store(value) for key, value in client_state.kept.items()}
        index: dict[str, object] = {"kept": blobs}
        index |= {key: self._store(part) if part else None for key, part in _apart(client_state).items()}
        rounds = self._rounds.get(name, [])
        replaced = self._names(name, client_state.round) if client_state.round in rounds else []
        write_whole(self._index(name, client_state.round), json.dumps(index).encode())
        self._count(_blob_names(index), 1)
        self._count(replaced, -1)
        past = [number for number in rounds if number != client_state.round]
        kept = [number for number in past if number < client_state.round][-1:]
        for number in past:
            if number not in kept:
                self._forget(name, number)
        self._rounds[name] = [*kept, client_state.round]

    def forget_after(self, client: str, round: int) -> None:
        """Forget the client states of later rounds: the server knows nothing of them."""
        name = file_name(client)
        kept = [number for number in self._rounds.get(name, ()) if number <= round]
        for number in self._rounds.get(name, ()):
            if number > round:
                self._forget(name, number)
        self._rounds[name] = kept

    def _index(self, name: str, round: int) -> Path:
        return self._folder / f"{name}.{round}.json"

    def _names(self, name: str, round: int) -> list[str]:
        return _blob_names(read_object(self._index(name, round), {"kept": dict}))

    def _count(self, names: Sequence[str], by: int) -> None:
        for name in names:
            self._users[name] = self._users.get(name, 0) + by
            if not self._users[name]:
                del self._users[name]
                self._cache.pop(name, None)
                (self._blobs / name).unlink(missing_ok=True)

    def _forget(self, name: str, round: int) -> None:
        blobs = self._names(name, round)
        self._index(name, round).unlink()
        self._count(blobs, -1)

    def _store(self, value: Tree) -> str:
        data = to_bytes({"value": value})
        name = _blob_name(data)
        if not (self._blobs / name).exists():
            write_whole(self._blobs / name, data)
        return name

    def _load(self, name: str) -> Tree:
        if name not in self._cache:
            path = self._blobs / name
            try:
                data = path.read_bytes()
                if _blob_name(data) != name:
                    raise PayloadError("not the bytes that the name stands for")
                self._cache[name] = from_bytes(data)["value"]
            except (OSError, PayloadError, KeyError) as error:
                raise _damaged(path) from error
            while len(self._cache) > _CACHED:
                self._cache.popitem(last=False)
        self._cache.move_to_end(name)
        return self._cache[name]

    def _read(self, name: str, round: int) -> ClientState:
        index = read_object(self._index(name, round), {"kept": dict})
        kept: Payload = {key: self._load(blob) for key, blob in index["kept"].items()}
        apart: Payload = {key: self._load(index[key]) for key in ("head", "stages") if index.get(key)}
        return ClientState(round, kept, tensors_at(apart, "head"), branch(apart, "stages"))


def _blob_name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def _damaged(path: Path) -> RunFolderError:
    return RunFolderError(f"The client state {path} is damaged or missing: this run cannot go on; start it anew.")


def _blob_names(index: Mapping[str, object]) -> list[str]:
    kept = index["kept"]
    names = [str(name) for name in kept.values()] if isinstance(kept, Mapping) else []
    return [*names, *(str(index[key]) for key in ("head", "stages") if index.get(key))]


def _apart(client_state: ClientState) -> dict[str, Tree]:
    """What is stored beside what the method keeps."""
    return {"head": client_state.head, "stages": client_state.stages}


def _parse(index: Path) -> tuple[str, int]:
    name, _, round = index.name.removesuffix(".json").rpartition(".")
    return name, int(round)
