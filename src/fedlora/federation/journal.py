# SPDX-License-Identifier: Apache-2.0
"""The run folder. Lines are appended whole, files replaced whole: a reader never sees half of either."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from fedlora.errors import RunFolderError
from fedlora.federation.record import RoundRecord, client_line, round_line, timing_line

CONFIG = "config.toml"
ENVIRONMENT = "environment.json"
ROUNDS = "rounds.jsonl"
CLIENTS = "clients.jsonl"
TIMINGS = "timings.jsonl"
SUMMARY = "summary.json"


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is either the old one or the new one, whatever happens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def write_json(path: Path, tree: object) -> None:
    """Write JSON, indented, in the order of the tree."""
    write_whole(path, (json.dumps(tree, indent=2, ensure_ascii=False) + "\n").encode())


def client_folder(run: Path, client: str) -> Path:
    """Where a run keeps what is one client's own; an id may hold what a file's name may not."""
    return run / "clients" / quote(client, safe="")


class Journal:
    """Writes a run folder.

    Args:
        folder: must not hold another run.
        config: the resolved config.
        environment: what the run depends on besides.

    Raises:
        RunFolderError: the folder is in use.
    """

    def __init__(self, folder: Path, config: str, environment: Mapping[str, object]) -> None:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            what = "a run" if (folder / CONFIG).exists() else "other things"
            raise RunFolderError(
                f"The output folder {folder} already holds {what}: choose another with --out, or remove it."
            )
        self.folder = folder
        write_whole(folder / CONFIG, config.encode())
        write_json(folder / ENVIRONMENT, environment)

    def commit(self, record: RoundRecord) -> None:
        """Append a round. Its line in `rounds.jsonl` comes last: it is the commit."""
        self._append(CLIENTS, *(client_line(client) for client in record.clients))
        self._append(TIMINGS, timing_line(record))
        self._append(ROUNDS, round_line(record))

    def finish(self, summary: Mapping[str, object]) -> None:
        """Write the summary."""
        write_json(self.folder / SUMMARY, summary)

    def _append(self, name: str, *lines: Mapping[str, object]) -> None:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        with (self.folder / name).open("ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
