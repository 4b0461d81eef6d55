# SPDX-License-Identifier: Apache-2.0
"""Run folders as data, grouped into what a table has one row for.

All text of a run comes in here, and is made fit for pages and figures here.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedlora.errors import RunFolderError
from fedlora.report import shapes
from fedlora.report.task import TaskInfo, read_task
from fedlora.report.text import read_json, visible_tree
from fedlora.run_files import damaged, read_lines, read_object, read_toml, require_shape

Line = Mapping[str, Any]

CONFIG, SUMMARY = "config.toml", "summary.json"
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
    task: TaskInfo
    finished: bool
    intervals: Mapping[str, Any] = field(default_factory=dict)
    """Of the last scores, the ends of intervals over examples, as the summary has them; empty where it tells none."""

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.config["run"]["seed"])

    @property
    def method(self) -> str:
        """The method's name; of a folder that does not tell it, and of `path/file.py:Class`, the class."""
        return str(self.environment.get("method") or str(self.config["method"]["name"]).rpartition(":")[2])

    @property
    def deployed(self) -> bool:
        """Whether its clients were sites with data of their own."""
        return not self.split["clients"]

    @property
    def labels(self) -> tuple[str, Sequence[str]]:
        """What examples are told apart by, `label` or `kind`, and the names in order; none where they are not."""
        kinds = self.split.get("kinds", ())
        return ("kind", kinds) if kinds else ("label", self.split["labels"])

    @property
    def has_head(self) -> bool:
        """Whether the model has a head besides its adapter, as a classifier does."""
        return bool(self.environment.get("head_parameters", 1))

    def last_scored(self) -> int | None:
        """The last round after which scores were taken."""
        scored = [line["round"] for line in self.rounds if line["personal"] or line["global"]]
        return max(scored, default=None)


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The runs of one row: the same config, other seeds."""

    label: str
    runs: Sequence[RunData] = field(default_factory=tuple)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The clients' different ranks, sorted; none under full fine-tuning, which has no rank."""
        if self.runs[0].environment["kind"] == "dense":
            return ()
        return tuple(sorted({int(line["rank"]) for run in self.runs for line in run.clients}))


def read_runs(paths: Iterable[Path]) -> list[RunData]:
    """Read run folders, and all run folders below other folders.

    Raises:
        RunFolderError: a path holds no run, or a damaged one; or the runs are of different tasks.
    """
    folders: list[Path] = []
    for path in paths:
        found = sorted(folder.parent for folder in path.rglob("config.toml")) if path.is_dir() else []
        found = [folder for folder in found if _has_round(folder)]
        found = [folder for folder in found if folder == path or not _is_trial(folder)]
        if not found:
            raise RunFolderError(f"{path} holds no run with a finished round: expected a folder with rounds.jsonl.")
        folders += [folder for folder in found if folder not in folders]
    runs = [_read(folder) for folder in folders]
    for run in runs[1:]:
        if run.task.headline.name != runs[0].task.headline.name:
            raise RunFolderError(
                f"{run.folder} measures {run.task.headline.name}, but {runs[0].folder} measures "
                f"{runs[0].task.headline.name}: report runs of one task at a time."
            )
    return label(runs)


def _has_round(folder: Path) -> bool:
    """Whether a round was finished: its line has its end."""
    path = folder / "rounds.jsonl"
    return path.is_file() and b"\n" in path.read_bytes()


def _is_trial(folder: Path) -> bool:
    """Whether a run was made to choose something, on validation examples."""
    evaluate = read_toml(folder / CONFIG).get("evaluate")
    return isinstance(evaluate, dict) and evaluate.get("part") == "validation"


def group(runs: Sequence[RunData]) -> list[Group]:
    """Runs by label, in the order in which labels appear."""
    labels = list(dict.fromkeys(run.label for run in runs))
    return [Group(name, tuple(run for run in runs if run.label == name)) for name in labels]


def label(runs: Sequence[RunData]) -> list[RunData]:
    """Name each run by its method, and by the keys in which runs of that method differ.

    Where too many differ to be told, configs are numbered.
    """
    labelled = []
    for run in runs:
        others = [_keys(other) for other in runs if other.method == run.method]
        named = dict.fromkeys(key for keys_of in others for key in keys_of)
        keys = [key for key in named if len({str(keys_of.get(key)) for keys_of in others}) > 1]
        told = ", ".join(f"{key.partition('.')[2]} {_keys(run).get(key, 'none')}" for key in keys)
        if len(keys) > _MOST_KEYS:
            distinct = list(dict.fromkeys(str(keys_of) for keys_of in others))
            told = f"config {1 + distinct.index(str(_keys(run)))}"
        labelled.append(replace(run, label=f"{run.method} ({told})" if told else run.method))
    return labelled


def _keys(run: RunData) -> dict[str, Any]:
    """A run's config, flat, without what only names the run."""
    silent = {"run.seed", "split.seed", "run.name", "run.device"}
    flat: dict[str, Any] = {}
    for section, keys in run.config.items():
        if isinstance(keys, dict):
            flat |= {f"{section}.{key}": value for key, value in keys.items()}
        else:  # [[stage]]
            flat[f"{section}.{section}"] = ", ".join(str(entry["name"]) for entry in keys)
    return {key: value for key, value in flat.items() if key not in silent}


def _read(folder: Path) -> RunData:
    about = folder / "environment.json"
    environment = read_object(about, shapes.ENVIRONMENT, read_json)
    try:
        task = read_task(environment)
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(about, "it describes no task") from error
    rounds = read_lines(folder / "rounds.jsonl", shapes.ROUND, read_json)
    for number, line in enumerate(rounds, start=1):
        shapes.require_scores(folder / "rounds.jsonl", line, f"line {number}")
    clients = read_lines(folder / "clients.jsonl", shapes.CLIENT, read_json)
    missing = {line["round"] for line in rounds} - {line["round"] for line in clients}
    if missing:
        raise damaged(folder / "clients.jsonl", f"it has no client of round {min(missing)}")
    config = read_toml(folder / CONFIG)
    require_shape(folder / CONFIG, config, shapes.CONFIG)
    return RunData(
        folder=folder,
        label=folder.name,
        config=visible_tree(config),
        rounds=rounds,
        clients=clients,
        split=read_object(folder / "split.json", shapes.SPLIT, read_json),
        environment=environment,
        task=task,
        finished=(folder / SUMMARY).is_file(),
        intervals=_intervals(folder / SUMMARY, len(rounds)),
    )


def _intervals(path: Path, rounds: int) -> Mapping[str, Any]:
    """The intervals of a summary; empty where there is none, or where the run has gone on since it was written."""
    summary = read_object(path, reader=read_json) if path.is_file() else {}
    shapes.require_intervals(path, summary)
    return dict(summary.get("intervals", {})) if summary.get("rounds") == rounds else {}
