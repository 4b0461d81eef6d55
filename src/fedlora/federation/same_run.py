# SPDX-License-Identifier: Apache-2.0
"""Whether a run folder may go on under a config: what must be as it was, and what may change.

What a path leads to is compared by content, so paths may change. A run may become longer, where its rounds so far are
those of the longer run. A deployment may wait for others, or longer.
"""

import hashlib
import json
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedlora.errors import RunFolderError
from fedlora.federation.files import encoded_lines, write_whole
from fedlora.run_files import read_lines, read_object, read_toml

CONFIG = "config.toml"
ENVIRONMENT = "environment.json"
SPLIT = "split.json"
ROUNDS = "rounds.jsonl"
CLIENTS = "clients.jsonl"
TIMINGS = "timings.jsonl"
_PATIENCE = "deploy"
_FREE = {"run": {"rounds", "name"}, "data": {"path"}, "model": {"base"}, "adapter": {"start"}}
"""Keys that are compared otherwise, rounds by number and paths by content, or not at all: what a run is called."""
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


def identity(config: str) -> str:
    """A digest of a resolved config as far as it makes a run another one."""
    return hashlib.sha256(json.dumps(_lasting(tomllib.loads(config)), sort_keys=True).encode()).hexdigest()


def _lasting(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A config without what may change from one start of a run to the next."""
    kept: dict[str, Any] = {}
    for section, values in tree.items():
        if section != _PATIENCE:
            tables = {key: value for key, value in _keyed(values).items() if key not in _FREE.get(section, ())}
            kept[section] = _in_any_folder(tables) if section == "method" else tables
    if "stage" in kept:
        kept["stage"] = {number: _in_any_folder(table) for number, table in kept["stage"].items()}
    return kept


def _keyed(section: object) -> dict[str, Any]:
    """A section's keys; a list of tables has their numbers for keys."""
    if isinstance(section, dict):
        return section
    return {str(number): table for number, table in enumerate(section)} if isinstance(section, list) else {}


def _in_any_folder(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table of a method or stage, whose `path/to/file.py:Class` may have moved."""
    file, colon, kind = str(table.get("name", "")).rpartition(":")
    return {**table, "name": f"{Path(file).name}:{kind}"} if colon else dict(table)


def require_same_config(folder: Path, config: str) -> None:
    """Name the first key in which a run's config differs from another, unless that key may change.

    Raises:
        RunFolderError: they differ; or the run would become shorter, or longer where it cannot.
    """
    before, after = read_toml(folder / CONFIG), tomllib.loads(config)
    had, has = _lasting(before), _lasting(after)
    for section in dict.fromkeys([*had, *has]):
        was, now = had.get(section, {}), has.get(section, {})
        for key in {**was, **now}:
            if was.get(key) != now.get(key):
                raise RunFolderError(
                    f"{folder} cannot go on: {section}.{key} was {was.get(key)!r} and is now {now.get(key)!r}. Set it "
                    f"back, or choose another --out for a new run."
                )
    _require_longer(folder, before, after)


def _require_longer(folder: Path, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    was, now = (int(tree.get("run", {}).get("rounds", 0)) for tree in (before, after))
    if now < was:
        raise RunFolderError(
            f"{folder} cannot go on: run.rounds was {was} and is now {now}. A run can become longer and not shorter: "
            f"set it to {was} or more, or choose another --out for a new run."
        )
    train = after.get("train", {})
    if now > was and read_lines(folder / ROUNDS):
        for key, usual in (("schedule", "constant"), ("warmup", 0.0)):
            if train.get(key, usual) != usual:
                raise RunFolderError(
                    f"{folder} cannot become longer, from {was} to {now} rounds: with train.{key} = {train[key]!r} the "
                    f"learning rate follows the number of all rounds, and the finished ones were trained with {was} in "
                    f"mind. Choose another --out for a new run of {now} rounds, or go on from this one's adapter with "
                    f"adapter.start."
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


def drop_early_scores(folder: Path, config: str) -> None:
    """Take out scores that were taken only because their round was the last, and now is not.

    So a run that became longer has the same lines as one that was as long from the start.
    """
    tree = tomllib.loads(config)
    rounds, every = (tree.get(section, {}).get(key, 1) for section, key in (("run", "rounds"), ("evaluate", "every")))

    def early(line: Mapping[str, object]) -> bool:
        number = int(str(line["round"]))
        return bool(number < rounds and (every == 0 or number % every != 0))

    _rewrite(folder / ROUNDS, early, {"global": None, "personal": None, "evaluation_bytes": 0})
    _rewrite(folder / CLIENTS, early, {"score": None, "score_examples": 0})


def _rewrite(path: Path, chosen: Callable[[Mapping[str, object]], bool], values: Mapping[str, object]) -> None:
    """Give some lines other values; those of clients that were only scored go."""
    lines = read_lines(path)
    kept = [{**line, **values} if chosen(line) else line for line in lines]
    kept = [line for line in kept if not (chosen(line) and line.get("status") == "idle")]
    if kept != lines:
        write_whole(path, encoded_lines(*kept))
