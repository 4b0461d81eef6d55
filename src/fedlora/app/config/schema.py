# SPDX-License-Identifier: Apache-2.0
"""The config: every section with its keys, and a default that works for each.

The sections are the settings of the floors that use them; only [run], [method] and [[wrap]] belong to the application.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w

from fedlora.app.config.paths import with_absolute_paths
from fedlora.app.config.sections import checked, override_key, read_tree, tree_of
from fedlora.app.config.task_keys import require_keys_of_task, with_split_of_task
from fedlora.core.adapter import AdapterSettings
from fedlora.core.settings import Positive, Range
from fedlora.errors import ConfigError
from fedlora.federation.settings import ClientsSettings, DeploySettings, EvaluateSettings
from fedlora.training.settings import DataSettings, ModelSettings, SplitSettings, TrainSettings


@dataclass(frozen=True)
class RunSettings:
    """The run as a whole."""

    name: str = "run"
    """Name of the run; its folder is runs/NAME, unless --out says otherwise."""
    seed: Annotated[int, Range(at_least=0)] = 0
    """Every random number of the run is derived from it."""
    rounds: Positive = 20
    """Rounds of federated training."""
    device: Annotated[list[str], Range(entries=1)] | str = "cpu"
    """Where the model computes: cpu, cuda (the first GPU), cuda:1, ... A list, such as ["cuda:0", "cuda:1"], trains
    batches of clients on all of them at the same time, with a copy of the base on each; the first one scores."""
    wire: Literal["float32", "bfloat16"] = "float32"
    """Data type in which tensors are sent."""

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices, one or more."""
        return (self.device,) if isinstance(self.device, str) else tuple(self.device)


@dataclass(frozen=True)
class MethodSection:
    """The method and its own fields, which `fedlora methods` lists."""

    name: str = "lora-a2"
    """A built-in method, or path/to/file.py:Class."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The method's fields."""


@dataclass(frozen=True)
class StageSection:
    """A stage between method and wire; the first one stands next to the method. Written as [[stage]], once each."""

    name: str
    """fedprox, clip, fedavgm, fedadam, or path/to/file.py:Class; further keys are the stage's fields."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The stage's fields."""


@dataclass(frozen=True)
class Config:
    """All sections."""

    run: RunSettings = field(default_factory=RunSettings)
    data: DataSettings = field(default_factory=DataSettings)
    split: SplitSettings = field(default_factory=SplitSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    adapter: AdapterSettings = field(default_factory=AdapterSettings)
    clients: ClientsSettings = field(default_factory=ClientsSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    method: MethodSection = field(default_factory=MethodSection)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    stage: list[StageSection] = field(default_factory=list)
    deploy: DeploySettings | None = None

    @property
    def draw(self) -> int:
        """The seed of the draw: of the examples that are used, of their owners and of the owners' ranks."""
        return self.run.seed if self.split.seed is None else self.split.seed


def require_validation(config: Config) -> None:
    """Refuse to score on a validation part that is not there.

    Raises:
        ConfigError: split.validation is zero.
    """
    if config.split.validation == 0:
        raise ConfigError("split.validation is 0.0, so there are no examples to choose on: set it to, say, 0.1.")


def read_config(path: Path | None, overrides: Sequence[str] = (), folder: Path | None = None) -> Config:
    """Read a TOML file (None: defaults alone) and apply `section.key=value` overrides.

    Args:
        path: of the file; its relative paths are seen from its folder.
        overrides: as `--set` takes them.
        folder: from which the relative paths of overrides are seen; None: the working directory.

    Raises:
        ConfigError: the file, a key or a value is wrong.
    """
    tree: dict[str, Any] = {}
    for override in overrides:
        override_key(tree, override)
    if path is None:
        return make_config(tree, folder)
    return _merged(read_tree(path), path.absolute().parent, tree, folder or Path.cwd())


def make_config(tree: Mapping[str, Any], folder: Path | None = None) -> Config:
    """A config from nested mappings.

    Args:
        tree: section -> key -> value.
        folder: from which relative paths are seen; None: the working directory.

    Raises:
        ConfigError: a key or a value is wrong.
    """
    return _merged({}, Path(), tree, folder or Path.cwd())


def changed_config(config: Config, tree: Mapping[str, Any]) -> Config:
    """A config with some keys changed; the relative paths among these are seen from the working directory.

    Raises:
        ConfigError: a key or a value is wrong.
    """
    return _merged(_without_none(tree_of(config)), Path("/"), tree, Path.cwd())


def _merged(below: Mapping[str, Any], below_folder: Path, above: Mapping[str, Any], above_folder: Path) -> Config:
    """The config of two trees, each with its paths seen from its folder."""
    if "wrap" in below or "wrap" in above:
        raise ConfigError("The config has a section [[wrap]], which is called [[stage]] now: rename it; its keys stay.")
    source = next((_source(tree) for tree in (above, below) if _source(tree) is not None), None)
    tree = with_absolute_paths(below, below_folder, source)
    for name, values in with_absolute_paths(above, above_folder, source).items():
        beneath = tree.get(name)
        if not isinstance(values, Mapping) or beneath is None:
            tree[name] = values
        elif not isinstance(beneath, Mapping):
            raise ConfigError(f"{name}.{next(iter(values), '')} cannot be set: {name} is no section of the config.")
        else:
            tree[name] = {**beneath, **values}
    config = checked(Config, with_split_of_task(tree))
    require_keys_of_task(config)
    return config


def _source(tree: Mapping[str, Any]) -> object:
    data = tree.get("data")
    return data.get("source") if isinstance(data, Mapping) else None


def resolved(config: Config) -> str:
    """The config as TOML with every default filled in; keys without a value are left out."""
    return tomli_w.dumps(_without_none(tree_of(config)))


def _without_none(tree: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in tree.items() if value is not None}
    return {key: _without_none(value) if isinstance(value, Mapping) else value for key, value in kept.items()}
