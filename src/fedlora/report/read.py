# SPDX-License-Identifier: Apache-2.0
"""Run folders as data, grouped into what a table has one row for.

All text of a run comes in here, and is made fit for pages and figures here.
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedlora.errors import RunFolderError
from fedlora.report.text import read_json, visible_tree

Line = Mapping[str, Any]

_MOST_KEYS = 3
"""So many differing keys still fit into a name."""


@dataclass(frozen=True, slots=True, eq=False)
class RunData:
    """One run, as far as it has come."""

    folder: Path
    label: str
    config: Mapping[str, Any]
    rounds: Sequence[Line]
    clients: Sequence[Line]
    split: Mapping[str, Any]
    environment: Mapping[str, Any]
    finished: bool

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.config["run"]["seed"])

    @property
    def method(self) -> str:
        """The method's name; of `path/file.py:Class` the class."""
        return str(self.config["method"]["name"]).rpartition(":")[2]

    @property
    def deployed(self) -> bool:
        """Whether its clients were sites with data of their own."""
        return not self.split["clients"]

    def last_scored(self) -> int | None:
        """The last round after which scores were taken."""
        scored = [line["round"] for line in self.rounds if line["personal"] or line["global"]]
        return max(scored, default=None)


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The runs of one row: the same config, other seeds."""

    label: str
    runs: Sequence[RunData] = field(default_factory=tuple)


def read_runs(paths: Iterable[Path]) -> list[RunData]:
    """Read run folders, and all run folders below other folders.

    Raises:
        RunFolderError: a path holds no run, or a damaged one.
    """
    folders: list[Path] = []
    for path in paths:
        found = sorted(own.parent for own in path.rglob("config.toml")) if path.is_dir() else []
        found = [own for own in found if _has_round(own)]
        found = [own for own in found if own == path or not _is_trial(own)]
        if not found:
            raise RunFolderError(f"{path} holds no run with a finished round: expected a folder with rounds.jsonl.")
        folders += [own for own in found if own not in folders]
    return label([_read(folder) for folder in folders])


def _has_round(folder: Path) -> bool:
    """Whether a round was finished: its line has its end."""
    path = folder / "rounds.jsonl"
    return path.is_file() and b"\n" in path.read_bytes()


def _is_trial(folder: Path) -> bool:
    """Whether a run was made to choose something, on validation examples."""
    config = tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
    return bool(config.get("evaluate", {}).get("part") == "validation")


def group(runs: Sequence[RunData]) -> list[Group]:
    """Runs by label, in the order in which labels appear."""
    labels = list(dict.fromkeys(run.label for run in runs))
    return [Group(own, tuple(run for run in runs if run.label == own)) for own in labels]


def label(runs: Sequence[RunData]) -> list[RunData]:
    """Name each run by its method, and by the keys in which runs of that method differ.

    Where too many differ to be told, configs are numbered.
    """
    labelled = []
    for run in runs:
        others = [_keys(own) for own in runs if own.method == run.method]
        named = dict.fromkeys(key for own in others for key in own)
        keys = [key for key in named if len({str(own.get(key)) for own in others}) > 1]
        told = ", ".join(f"{key.partition('.')[2]} {_keys(run).get(key, 'none')}" for key in keys)
        if len(keys) > _MOST_KEYS:
            distinct = list(dict.fromkeys(str(own) for own in others))
            told = f"config {1 + distinct.index(str(_keys(run)))}"
        labelled.append(replace(run, label=f"{run.method} ({told})" if told else run.method))
    return labelled


def _keys(run: RunData) -> dict[str, Any]:
    """A run's config, flat, without what only names the run."""
    silent = {"run.seed", "run.name", "run.device", "method.name"}
    flat: dict[str, Any] = {}
    for section, keys in run.config.items():
        if isinstance(keys, dict):
            flat |= {f"{section}.{key}": value for key, value in keys.items()}
        else:  # [[stage]]
            flat[f"{section}.{section}"] = ", ".join(str(own["name"]) for own in keys)
    return {key: value for key, value in flat.items() if key not in silent}


def _read(folder: Path) -> RunData:
    try:
        config = visible_tree(tomllib.loads((folder / "config.toml").read_text(encoding="utf-8")))
        return RunData(
            folder=folder,
            label=folder.name,
            config=config,
            rounds=_lines(folder / "rounds.jsonl"),
            clients=_lines(folder / "clients.jsonl"),
            split=read_json((folder / "split.json").read_bytes()),
            environment=read_json((folder / "environment.json").read_bytes()),
            finished=(folder / "summary.json").is_file(),
        )
    except (OSError, ValueError, KeyError, RecursionError) as error:
        raise RunFolderError(f"{folder} is no whole run folder: {error}.") from error


def _lines(path: Path) -> list[Line]:
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    return [read_json(line) for line in whole.splitlines()]
