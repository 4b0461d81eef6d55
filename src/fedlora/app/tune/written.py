# SPDX-License-Identifier: Apache-2.0
"""The files of a finished race: the config that it ends with, every trial, and the results."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from fedlora.app.config.schema import Config
from fedlora.app.config.sections import tree_of
from fedlora.app.study.plan import Rate
from fedlora.app.tune.asked import Asked
from fedlora.app.tune.candidates import Candidate, Kind, chosen_config
from fedlora.app.tune.told import sentence, table
from fedlora.federation.files import write_json, write_whole

BEST, TRIALS, RESULTS, TIMES = "best.toml", "trials.csv", "results.json", "timings.json"
_ALWAYS = {("method", "name"), ("adapter", "rank"), ("train", "lr"), ("run", "rounds")}
_COLUMNS = ("rung", "rounds", "draw", "method", "rank", "lr", "lr_b_ratio", "score", "bytes_up", "bytes_down", "steps")


def write_found(folder: Path, asked: Asked, found: Mapping[str, Any], seconds: float) -> None:
    """Write `results.json`, `trials.csv`, `timings.json` and at last `best.toml`.

    Args:
        folder: of the race.
        asked: the question.
        found: see `fedlora.app.tune.found.found`.
        seconds: that the race took over all calls; they stand in `timings.json` alone.
    """
    write_json(folder / RESULTS, found)
    write_whole(folder / TRIALS, _trials(found).encode())
    write_json(folder / TIMES, {"seconds": seconds})
    write_whole(folder / BEST, best_config(asked, found).encode())


def best_config(asked: Asked, found: Mapping[str, Any]) -> str:
    """A config that runs as it is, with how it was found in comments."""
    told = ["Made by fedlora tune: the config that it was given, with method, rank and rate of the winner."]
    told += [*table(found), sentence(found)]
    config = chosen_config(asked, _candidate(asked, found["winner"]))
    return "".join(f"# {line}\n" for line in told) + "\n" + tomli_w.dumps(_without_defaults(config))


def _candidate(asked: Asked, one: Mapping[str, Any]) -> Candidate:
    """A candidate of the results, where methods have short names."""
    by_label = {Kind(name, one["rank"]).label: name for name in asked.methods}
    method = by_label[Kind(one["method"], one["rank"]).label]
    return Candidate(Kind(method, one["rank"]), Rate(one["lr"], one["lr_b_ratio"]))


def _without_defaults(config: Config) -> dict[str, Any]:
    """What a config says besides the defaults; its paths are absolute."""
    tree, usual = tree_of(config), tree_of(Config())
    kept: dict[str, Any] = {}
    for section, keys in tree.items():
        if isinstance(keys, Mapping):
            below = usual[section] or {}
            kept[section] = {
                key: value
                for key, value in keys.items()
                if value is not None and ((section, key) in _ALWAYS or section == "method" or value != below.get(key))
            }
        elif keys:
            kept[section] = keys
    return {section: keys for section, keys in kept.items() if keys}


def _trials(found: Mapping[str, Any]) -> str:
    """A row for each trial of each rung; the first look is rung 0."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    looked = [found["first_look"]] if found["first_look"] is not None else []
    for number, rung in enumerate([*looked, *found["rungs"]], start=1 - len(looked)):
        for one in rung["candidates"]:
            for trial in one["trials"]:
                values = {"rung": number, "rounds": rung["rounds"], **one, **trial}
                writer.writerow([values[column] for column in _COLUMNS])
    return text.getvalue()
