# SPDX-License-Identifier: Apache-2.0
"""The run folder, and going on from it.

A round is finished when its line stands in `rounds.jsonl`; before that line everything else of the round
is on disk: the server's checkpoint, the clients' client states, their lines. A kill at any moment loses at most
the unfinished round, whose traces are removed when the run goes on.
"""

import hashlib
import tomllib
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote

from fedlora.core.payload import from_bytes, to_bytes
from fedlora.errors import PayloadError, RunFolderError
from fedlora.federation.client_states import StoredClientStates
from fedlora.federation.files import (
    PART,
    append_lines,
    damaged,
    hold,
    parsed,
    read_lines,
    read_object,
    read_toml,
    write_json,
    write_whole,
)
from fedlora.federation.record import ROUND_LINE, RoundRecord, client_line, round_line, timing_line
from fedlora.federation.server import Server

CONFIG = "config.toml"
ENVIRONMENT = "environment.json"
SPLIT = "split.json"
ROUNDS = "rounds.jsonl"
CLIENTS = "clients.jsonl"
TIMINGS = "timings.jsonl"
SUMMARY = "summary.json"
CHECKPOINTS = "checkpoints"
CLIENT_STATES = "client_states"
_PATIENCE = "deploy"
_TITLE = ("run", "name")
"""What a run is called is no part of what it computes."""
_INPUTS = (
    (ENVIRONMENT, "packages.fedlora", "another version of fedlora"),
    (ENVIRONMENT, "base_fingerprint", "other weights of the base (model.base)"),
    (ENVIRONMENT, "head_fingerprint", "another head of the base (model.base)"),
    (ENVIRONMENT, "tokenizer_fingerprint", "another tokenizer (model.base)"),
    (ENVIRONMENT, "start_fingerprint", "another adapter to start from (adapter.start)"),
    (SPLIT, "labels", "other names of labels (data.labels, or the data themselves)"),
    (SPLIT, "digests.train", "other training examples (data.path)"),
    (SPLIT, "digests.test", "other test examples (data.path, or deploy.test)"),
    (SPLIT, "digests.owners", "other owners of the examples (split)"),
)
"""What makes a run another one although its config is the same: file, key, and what a sentence calls a change."""
_SHORT = 40
"""Characters of a value that a sentence shows: versions, and no digests."""
_MISSING = object()
_KEPT = 2
"""Checkpoints kept: the newest, and one to fall back on."""


def client_folder(run: Path, client: str) -> Path:
    """Where a run keeps what belongs to one client; an id may hold what a file's name may not."""
    return run / "clients" / quote(client, safe="")


class Journal:
    """Writes a run folder round by round. Made by `start` or `go_on`."""

    def __init__(
        self, folder: Path, let_go: Callable[[], None], server: Server | None, client_states: StoredClientStates
    ) -> None:
        self.folder = folder
        self.close = weakref.finalize(self, let_go)
        """Let another process, or another journal of this one, write into the folder."""
        self.server = server
        """Where to go on from; None before the first finished round."""
        self.client_states = client_states
        self._identity = _identity(folder)

    @staticmethod
    def start(folder: Path, config: str, files: Mapping[str, object]) -> "Journal":
        """Begin a run folder.

        Args:
            folder: must be empty or not there.
            config: the resolved config.
            files: name -> contents of JSON files that describe the run.

        Raises:
            RunFolderError: the folder holds something, or somebody else is at work in it.
        """
        if folder.exists() and (not folder.is_dir() or any(entry.suffix != PART for entry in folder.iterdir())):
            raise RunFolderError(
                f"The output folder {folder} already holds {_contents(folder)}: choose another with --out, remove it, "
                f"or go on with --resume if it is this run's."
            )
        with hold(folder) as let_go:
            write_whole(folder / CONFIG, config.encode())  # first: a folder with a config is a run
            _describe(folder, files)
            return Journal(folder, let_go, None, StoredClientStates(folder / CLIENT_STATES))

    @staticmethod
    def go_on(folder: Path, config: str, files: Mapping[str, object]) -> "Journal":
        """Open the folder of an unfinished run, without the traces of its unfinished round.

        Args:
            folder: holds a run of the same config.
            config: the resolved config.
            files: as for `start`; written where a kill left them out.

        Raises:
            RunFolderError: somebody else is at work in it, it is another run's, its config or its inputs
                differ, or a checkpoint is damaged or foreign.
        """
        if not (folder / CONFIG).is_file():
            raise RunFolderError(f"{folder} holds {_contents(folder)}, no run that --resume could go on with.")
        require_same_config(folder, config)
        require_same_inputs(folder, files)
        with hold(folder) as let_go:
            for part in folder.rglob(f".*{PART}"):
                part.unlink()
            _describe(folder, files)
            finished = [line["round"] for line in read_lines(folder / ROUNDS, ROUND_LINE)]
            if finished != list(range(1, len(finished) + 1)):
                raise damaged(folder / ROUNDS, "its rounds are not numbered from 1 on")
            last = _checkpoint_before(folder, finished[-1]) if finished else None
            server = _read_checkpoint(last) if last else None
            until = server.round if server else 0
            for name in (ROUNDS, CLIENTS, TIMINGS):
                _cut(folder / name, until)
            _prune(folder, until)
            (folder / SUMMARY).unlink(missing_ok=True)
            return Journal(folder, let_go, server, StoredClientStates(folder / CLIENT_STATES, until))

    def commit(self, server: Server, record: RoundRecord) -> None:
        """Put a finished round on disk. Its line in `rounds.jsonl` comes last: it is the commit.

        Raises:
            RunFolderError: the disk is full, or the folder cannot be written.
        """
        tree = {"run": self._identity, **server.to_payload()}
        write_whole(self.folder / CHECKPOINTS / f"server-{server.round:06d}.payload", to_bytes(tree))
        append_lines(self.folder / CLIENTS, *(client_line(client, record.scoring) for client in record.clients))
        append_lines(self.folder / TIMINGS, timing_line(record))
        append_lines(self.folder / ROUNDS, round_line(record))
        _prune(self.folder, server.round)

    def finish(self, summary: Mapping[str, object]) -> None:
        """Write the summary: the run is finished."""
        write_json(self.folder / SUMMARY, summary)

    def rounds(self) -> list[dict[str, object]]:
        """The finished rounds' lines."""
        return read_lines(self.folder / ROUNDS)


def _describe(folder: Path, files: Mapping[str, object]) -> None:
    for name, contents in files.items():
        if not (folder / name).exists():
            write_json(folder / name, contents)


def _contents(folder: Path) -> str:
    if not folder.exists():
        return "nothing"
    return "a run" if (folder / CONFIG).exists() else "other things"


def _identity(folder: Path) -> str:
    return hashlib.sha256((folder / CONFIG).read_bytes()).hexdigest()


def _keyed(section: object) -> dict[str, object]:
    """A section's keys; a list of tables has their numbers for keys."""
    if isinstance(section, dict):
        return section
    return {str(number): table for number, table in enumerate(section)} if isinstance(section, list) else {}


def require_same_config(folder: Path, config: str) -> None:
    """Name the first key in which a run's config differs from another. Its name may, and how long to wait.

    Raises:
        RunFolderError: they differ.
    """
    before, after = read_toml(folder / CONFIG), tomllib.loads(config)
    for section in dict.fromkeys([*before, *after]):
        if section == _PATIENCE:
            continue
        was, now = (_keyed(document.get(section, {})) for document in (before, after))
        for key in {**was, **now}:
            if (section, key) != _TITLE and was.get(key) != now.get(key):
                raise RunFolderError(
                    f"{folder} cannot go on: {section}.{key} was {was.get(key)!r} and is now {now.get(key)!r}. Set it "
                    f"back, or choose another --out for a new run."
                )


def require_same_inputs(folder: Path, files: Mapping[str, object]) -> None:
    """Name the first input in which a run differs from another: version, base, tokenizer, examples, owners.

    Args:
        folder: holds a run.
        files: as for `Journal.start`, of the other run. Keys that are no inputs are not compared.

    Raises:
        RunFolderError: they differ, or the folder does not say.
    """
    begun = (folder / ROUNDS).exists()
    for file, key, change in _INPUTS:
        now = _value(files.get(file), key)
        if now is _MISSING or not (begun or (folder / file).exists()):  # a kill left the file out: `go_on` writes it
            continue
        was = _value(_described(folder / file), key)
        if was is _MISSING:
            raise RunFolderError(
                f"{folder} does not say all that its run was started with: {file} lacks {key}. An older version of "
                f"fedlora made it: finish it with that version, or choose another --out for a new run."
            )
        if was != now:
            short = all(isinstance(value, str) and len(value) <= _SHORT for value in (was, now))
            shown = f": {was}, and now it is {now}" if short else ""
            raise RunFolderError(
                f"{folder} was started with {change}{shown}. Put it back as it was, or choose another --out for a "
                f"new run."
            )


def _described(path: Path) -> object:
    return read_object(path) if path.exists() else {}


def _value(tree: object, key: str) -> object:
    """The value at a dotted key, or `_MISSING`."""
    for part in key.split("."):
        tree = tree[part] if isinstance(tree, dict) and part in tree else _MISSING
    return tree


def _number(checkpoint: Path) -> int:
    return int(checkpoint.stem.rpartition("-")[2])


def _prune(folder: Path, round: int) -> None:
    """Remove checkpoints of unfinished rounds, and finished ones that are too old to be of use."""
    there = sorted((folder / CHECKPOINTS).glob("*.payload"))
    kept = [path for path in there if _number(path) <= round][-_KEPT:]
    for path in there:
        if path not in kept:
            path.unlink()


def _checkpoint_before(folder: Path, round: int) -> Path:
    """The newest checkpoint of a finished round."""
    there = [path for path in sorted((folder / CHECKPOINTS).glob("*.payload")) if _number(path) <= round]
    if not there:
        raise RunFolderError(f"{folder} cannot go on: {round} rounds are finished, but no checkpoint is there.")
    return there[-1]


def _read_checkpoint(path: Path) -> Server:
    try:
        tree = from_bytes(path.read_bytes())
        same_run = tree.get("run") == _identity(path.parents[1])
        server = Server.from_payload(tree)
    except PayloadError as error:
        raise RunFolderError(
            f"The checkpoint {path} is damaged: delete it, and --resume goes on from the round before."
        ) from error
    if not same_run or server.round != _number(path):
        raise RunFolderError(f"The checkpoint {path} belongs to another run: put this run's checkpoint back.")
    return server


def _cut(path: Path, until: int) -> None:
    """Keep the lines of the first rounds, as they are."""
    if path.exists():
        whole, end, _ = path.read_bytes().rpartition(b"\n")
        lines = (whole + end).splitlines(keepends=True)
        rounds = [parsed(path, line, {"round": int}, "a line")["round"] for line in lines]
        write_whole(path, b"".join(line for line, round in zip(lines, rounds, strict=True) if round <= until))
