# SPDX-License-Identifier: Apache-2.0
"""The run folder, and going on from it.

A round is finished when its line stands in `rounds.jsonl`; before that line everything else of the round
is on disk: the server's checkpoint, the clients' client states, their lines. A kill at any moment loses at most
the unfinished round, whose traces are removed when the run goes on.
"""

import hashlib
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path

from fedlora.core.payload import Payload, branch, from_bytes, to_bytes
from fedlora.errors import PayloadError, RunFolderError
from fedlora.federation.client_states import StoredClientStates
from fedlora.federation.files import (
    PART,
    append_lines,
    file_name,
    hold,
    write_json,
    write_whole,
)
from fedlora.federation.record import ROUND_LINE, RoundRecord, client_line, round_line, timing_line
from fedlora.federation.same_run import (
    CLIENTS,
    CONFIG,
    ROUNDS,
    TIMINGS,
    drop_early_scores,
    identity,
    require_same_config,
    require_same_inputs,
)
from fedlora.federation.server import Server
from fedlora.run_files import damaged, parsed, read_lines

SUMMARY = "summary.json"
CHECKPOINTS = "checkpoints"
CLIENT_STATES = "client_states"
CLIENT_MODELS = "clients"
_DIGEST_BYTES = 32
"""At the end of a checkpoint: the SHA-256 of all before it."""
_KEPT = 2
"""Checkpoints kept: the newest, and one to fall back on."""


def client_folder(run: Path, client: str) -> Path:
    """Where a run keeps what belongs to one client; an id may hold what a file's name may not."""
    return run / CLIENT_MODELS / file_name(client)


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
        self._identity = identity(_read_config(folder))

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
            folder: holds a run of the same config, or of fewer rounds: then it goes on to as many as `config` says.
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
            server = _server_in(last) if last else None
            if config != _read_config(folder):
                write_whole(folder / CONFIG, config.encode())
            until = server.round if server else 0
            for name in (ROUNDS, CLIENTS, TIMINGS):
                _cut(folder / name, until)
            drop_early_scores(folder, config)
            _prune(folder, until)
            (folder / SUMMARY).unlink(missing_ok=True)
            return Journal(folder, let_go, server, StoredClientStates(folder / CLIENT_STATES, until))

    def commit(self, server: Server, record: RoundRecord) -> None:
        """Put a finished round on disk. Its line in `rounds.jsonl` comes last: it is the commit.

        Raises:
            RunFolderError: the disk is full, or the folder cannot be written.
        """
        data = to_bytes({"run": {"config": self._identity}, **server.to_payload()})
        write_whole(self.folder / CHECKPOINTS / f"server-{server.round:06d}.payload", data + _digest(data))
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


def _read_config(folder: Path) -> str:
    return (folder / CONFIG).read_text(encoding="utf-8")


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


def _server_in(path: Path) -> Server:
    try:
        tree = read_checkpoint(path)
        same_run = branch(tree, "run").get("config") == identity(_read_config(path.parents[1]))
        server = Server.from_payload({key: value for key, value in tree.items() if key != "run"})
    except PayloadError as error:
        raise RunFolderError(
            f"The checkpoint {path} is damaged: delete it, and --resume goes on from the round before."
        ) from error
    if not same_run or server.round != _number(path):
        raise RunFolderError(f"The checkpoint {path} belongs to another run: put this run's checkpoint back.")
    return server


def read_checkpoint(path: Path) -> Payload:
    """The server and, under `run`, whose it is.

    Raises:
        PayloadError: it is not what was written. A flipped bit in a tensor would otherwise be trained on.
    """
    whole = path.read_bytes()
    data, digest = whole[:-_DIGEST_BYTES], whole[-_DIGEST_BYTES:]
    if digest != _digest(data):
        raise PayloadError("its contents are not what was written")
    return from_bytes(data)


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _cut(path: Path, until: int) -> None:
    """Keep the lines of the first rounds, as they are."""
    if path.exists():
        whole, end, _ = path.read_bytes().rpartition(b"\n")
        lines = (whole + end).splitlines(keepends=True)
        rounds = [parsed(path, line, {"round": int}, "a line")["round"] for line in lines]
        write_whole(path, b"".join(line for line, round in zip(lines, rounds, strict=True) if round <= until))
