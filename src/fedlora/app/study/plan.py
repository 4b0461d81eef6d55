# SPDX-License-Identifier: Apache-2.0
"""A study as a value: what is varied, what is compared, and the rates that everybody chooses from."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedlora.app.build.method import make_pipeline
from fedlora.app.compare.compare import at_one_rank
from fedlora.app.config.paths import absolute
from fedlora.app.config.schema import Config, make_config, require_validation
from fedlora.app.study.settings import StudySettings, TuningSettings
from fedlora.errors import ConfigError, UserError, nearest

Tree = Mapping[str, Any]
"""Section of a config -> its keys with their values; paths absolute. `stage` is a list of tables."""


@dataclass(frozen=True, slots=True, order=True)
class Rate:
    """A learning rate to train with."""

    lr: float
    ratio: float | None = None
    """B's rate divided by A's; None: as the config or the method has it."""

    def __str__(self) -> str:
        return f"{self.lr:g}" + (f", B times {self.ratio:g}" if self.ratio is not None else "")


@dataclass(frozen=True, slots=True)
class Setting:
    """A value on every axis."""

    name: str
    points: tuple[str, ...]
    """On each axis."""
    keys: Tree


@dataclass(frozen=True, slots=True)
class Variant:
    """One of the things compared."""

    name: str
    keys: Tree
    rates: tuple[Rate, ...] = ()
    """To choose from; none where the study chooses none, or the rate is given."""
    given: Rate | None = None
    """A rate that is not chosen."""
    bound: bool = False
    """It stands beside the others and in no comparison."""
    seed_offset: int = 0
    at: tuple[str, ...] | None = None
    """Points of axes, at any of which it is run; None: at all settings."""

    def is_run_at(self, setting: Setting) -> bool:
        """Whether it has cells at a setting."""
        return self.at is None or bool(set(self.at) & set(setting.points))


@dataclass(frozen=True, slots=True)
class Study:
    """All of it, checked."""

    about: StudySettings
    size: str
    """Of its sizes, the one taken; empty where it has none."""
    base: Tree
    settings: tuple[Setting, ...]
    variants: tuple[Variant, ...]
    tuning: TuningSettings | None = None
    tuned_at: Mapping[str, str] | None = None
    """Setting -> the setting at which its rates are chosen, by name; None: each at itself."""

    @property
    def pairs(self) -> list[tuple[Setting, Variant]]:
        """What is run: every variant at its settings, setting by setting."""
        pairs = [(setting, variant) for setting in self.settings for variant in self.variants]
        return [(setting, variant) for setting, variant in pairs if variant.is_run_at(setting)]

    @property
    def folder_name(self) -> str:
        """Where its results go below the folder of all studies."""
        return self.about.name + (f"-{self.size}" if self.size else "")

    def tuning_setting(self, setting: str) -> str:
        """The setting at which the rates of another one are chosen."""
        return self.tuned_at[setting] if self.tuned_at else setting


def layered(*layers: Tree) -> dict[str, Any]:
    """Trees on top of one another, key by key; a method that is named does not inherit another one's fields."""
    whole: dict[str, Any] = {}
    for layer in layers:
        for section, keys in layer.items():
            named = section == "method" and "name" in keys
            merges = isinstance(keys, Mapping) and isinstance(whole.get(section), Mapping) and not named
            whole[section] = {**whole[section], **keys} if merges else keys
    return whole


def config_at(study: Study, setting: Setting, variant: Variant) -> Config:
    """The config of a variant at a setting, before draw, seed and rate.

    Where clients have several ranks, a method that takes one rank for all gets their mean, at the scale of the mix.

    Raises:
        UserError: the sentence names variant and setting.
    """
    try:
        config = at_one_rank(make_config(layered(study.base, setting.keys, variant.keys)))
        make_pipeline(config)
    except UserError as error:
        place = f"The variant {variant.name!r}" + (f" at {setting.name}" if setting.name else "")
        raise ConfigError(f"{place} cannot run: {error}") from error
    return replace(config, run=replace(config.run, name="cell"))


def require_sound(study: Study) -> None:
    """Refuse a study that could not be run, or whose results could not be told.

    Raises:
        ConfigError: the sentence says which part of it, and what to do.
    """
    about, names = study.about, [variant.name for variant in study.variants]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"Two variants are called {twice!r}: give each a name of its own.")
    if about.reference not in names:
        raise ConfigError(
            f"study.reference is {about.reference!r}, which is no variant: {nearest(about.reference, names)}"
        )
    if next(variant for variant in study.variants if variant.name == about.reference).bound:
        raise ConfigError(f"study.reference is {about.reference!r}, a bound, which stands in no comparison.")
    if study.tuning is not None:
        _require_apart(about, study.tuning)
        _require_equal_effort(study.variants)
    configs = [config_at(study, setting, variant) for setting, variant in study.pairs]
    for config in configs:
        _require_fit(config, tuned=study.tuning is not None)


def _require_apart(about: StudySettings, tuning: TuningSettings) -> None:
    both = sorted(set(about.reported_draws) & set(tuning.draws))
    if both:
        raise ConfigError(
            f"tuning.draws is {tuning.draws}, and draw {both[0]} is reported, too (study.draws): a rate must be chosen "
            f"on draws that no result uses; name others."
        )


def _require_equal_effort(variants: Sequence[Variant]) -> None:
    choosing = [variant for variant in variants if variant.given is None]
    for first, variant in itertools.pairwise(choosing):
        if len(variant.rates) != len(first.rates):
            raise ConfigError(
                f"The variant {variant.name!r} has {len(variant.rates)} rates to choose from and {first.name!r} has "
                f"{len(first.rates)}: a comparison is fair where all try equally many (lr times lr_b_ratio)."
            )


def _require_fit(config: Config, *, tuned: bool) -> None:
    if tuned:
        require_validation(config)
    if config.model.dtype == "auto":
        raise ConfigError("model.dtype is 'auto', which asks the machine; all cells of a study need one type: name it.")
    if config.evaluate.part != "test":
        raise ConfigError("evaluate.part is 'validation', but a study reports the test part: leave it out.")
    if config.deploy is not None:
        raise ConfigError("The study has a section [deploy], but its cells are simulations: leave it out.")


def data_path(keys: Tree, folder: str | None) -> Tree:
    """The keys with data.path seen from the folder of all data sets, where there is such a folder."""
    data = keys.get("data")
    if folder is None or not isinstance(data, Mapping) or not isinstance(data.get("path"), str):
        return keys
    return {**keys, "data": {**data, "path": absolute(data["path"], Path(folder))}}
