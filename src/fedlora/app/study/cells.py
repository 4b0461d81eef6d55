# SPDX-License-Identifier: Apache-2.0
"""The runs that a study consists of: a pure function of the study and, for what is reported, of the rates chosen."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedlora.app.config.paths import short_class_name
from fedlora.app.config.schema import Config
from fedlora.app.config.sections import tree_of
from fedlora.app.study.plan import Rate, Setting, Study, Variant, config_at
from fedlora.app.study.settings import StudySettings

_DIGITS = 24
"""Of a cell's name, in hexadecimal."""
_PATHS = (("data", "path"), ("model", "base"), ("adapter", "start"))


@dataclass(frozen=True, slots=True, order=True)
class Unit:
    """What has one learning rate: a variant at the setting where its rate is chosen."""

    setting: str
    variant: str

    @property
    def label(self) -> str:
        """What sentences call it."""
        return ", ".join(filter(None, (self.variant, self.setting)))


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a study."""

    setting: str
    variant: str
    draw: int
    """split.seed."""
    seed: int
    """run.seed."""
    rate: Rate
    config: Config
    key: str
    """A digest of what the run is: the name of its folder, which studies share."""

    @property
    def label(self) -> str:
        """What progress calls it."""
        parts = [self.variant, self.setting, f"draw {self.draw}", f"seed {self.seed}", f"lr {self.rate}"]
        return ", ".join(filter(None, parts))


Contents = Callable[[str], str]
"""From a path (or a hub's name) to a digest of what it leads to."""


def units(study: Study) -> list[Unit]:
    """Every unit of a study, in order."""
    found = [Unit(study.tuning_setting(setting.name), variant.name) for setting, variant in study.pairs]
    return list(dict.fromkeys(found))


def of_shard(whole: Sequence[Unit], number: int, shards: int) -> list[Unit]:
    """Every so-manieth unit: disjoint, and together all. A unit has all that its choice of a rate needs.

    Args:
        whole: all units of the study.
        number: of the shard, from 1 to `shards`.
        shards: how many there are.
    """
    return list(whole[number - 1 :: shards])


def tuning_cells(study: Study, contents: Contents = str) -> list[Cell]:
    """The short runs from which rates are chosen, draw by draw; none where the study chooses none."""
    if study.tuning is None:
        return []
    rounds = study.tuning.rounds
    settings = {setting.name: setting for setting in study.settings}
    variants = {variant.name: variant for variant in study.variants}
    cells = []
    for draw in study.tuning.draws:
        for unit in units(study):
            setting, variant = settings[unit.setting], variants[unit.variant]
            if variant.given is not None:
                continue
            config = config_at(study, setting, variant)
            short = replace(
                config,
                run=replace(config.run, rounds=rounds or max(1, config.run.rounds // 2)),
                evaluate=replace(config.evaluate, every=0, part="validation"),
            )
            seed = study.about.seed + variant.seed_offset
            cells += [
                _cell(setting, variant, short, contents, draw=draw, seed=seed, rate=rate) for rate in variant.rates
            ]
    return cells


def reported_cells(study: Study, chosen: Mapping[Unit, Rate], contents: Contents = str) -> list[Cell]:
    """The runs whose scores are reported, draw by draw, so that a study that is stopped early has whole draws.

    Args:
        study: the study.
        chosen: the rate of every unit; units that lack one have no cells. Without tuning the configs say it.
        contents: see `cell_key`.
    """
    cells = []
    for draw, seed in draws_and_seeds(study.about):
        for setting, variant in study.pairs:
            config = config_at(study, setting, variant)
            rate = variant.given or chosen.get(Unit(study.tuning_setting(setting.name), variant.name))
            if study.tuning is None and variant.given is None:
                rate = Rate(config.train.lr, config.train.lr_b_ratio)
            if rate is not None:
                seed_here = seed + variant.seed_offset
                cells.append(_cell(setting, variant, config, contents, draw=draw, seed=seed_here, rate=rate))
    return cells


def draws_and_seeds(about: StudySettings) -> list[tuple[int, int]]:
    """First every draw with the one seed, then the first draws with the extra seeds."""
    first = [(draw, about.seed) for draw in about.reported_draws]
    return first + [(draw, seed) for draw in about.reported_draws[: about.repeated] for seed in about.extra_seeds]


def _cell(
    setting: Setting, variant: Variant, config: Config, contents: Contents, *, draw: int, seed: int, rate: Rate
) -> Cell:
    ratio = config.train.lr_b_ratio if rate.ratio is None else rate.ratio
    whole = replace(
        config,
        run=replace(config.run, seed=seed),
        split=replace(config.split, seed=draw),
        train=replace(config.train, lr=rate.lr, lr_b_ratio=ratio),
    )
    return Cell(setting.name, variant.name, draw, seed, rate, whole, cell_key(whole, contents))


def cell_key(config: Config, contents: Contents = str) -> str:
    """A digest of what a config says besides the defaults, with the contents of files in the place of their paths.

    Keys at their defaults are left out, so that a key that is new in a version changes no name.
    """
    return hashlib.sha256(json.dumps(lasting(config, contents), sort_keys=True).encode()).hexdigest()[:_DIGITS]


def lasting(config: Config, contents: Contents = str) -> dict[str, Any]:
    """What `cell_key` digests."""
    usual, tree = tree_of(Config()), tree_of(config)
    kept: dict[str, Any] = {}
    for section, keys in tree.items():
        if not isinstance(keys, dict):
            kept[section] = keys
            continue
        beside = {} if section == "method" else usual[section] or {}
        kept[section] = {key: value for key, value in keys.items() if key not in beside or value != beside[key]}
    for section, key in _PATHS:
        if isinstance(kept[section].get(key), str):
            kept[section][key] = contents(kept[section][key])
    kept["method"]["name"] = _class(kept["method"]["name"], contents)
    kept["stage"] = [{**stage, "name": _class(stage["name"], contents)} for stage in kept["stage"]]
    kept["run"] = {key: value for key, value in kept["run"].items() if key != "name"}
    return {section: keys for section, keys in kept.items() if keys}


def _class(name: str, contents: Contents) -> str:
    file, colon, _ = name.rpartition(":")
    return f"{short_class_name(name)} {contents(file)}" if colon else name


def contents_of(name: str) -> str:
    """A digest of a file, or of all files of a folder; a name that leads to none, as a hub's, stands for itself."""
    path = Path(name)
    if not path.exists():
        return name
    whole = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts):
            whole.update(file.relative_to(path).as_posix().encode() + b"\0")
            with file.open("rb") as data:
                whole.update(hashlib.file_digest(data, "sha256").digest())
    return whole.hexdigest()
