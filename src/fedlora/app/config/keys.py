# SPDX-License-Identifier: Apache-2.0
"""A config from keyword arguments: what everybody sets by its name, and any key by its section."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from fedlora.app.config.schema import Config, changed_config, make_config, read_config
from fedlora.app.config.sections import keys as keys_of
from fedlora.app.config.sections import sections
from fedlora.errors import ConfigError, nearest

Section = Mapping[str, Any]


class Keys(TypedDict, total=False):
    """Keys of a config as keyword arguments. A section is a mapping of its keys, as in a config file."""

    method: str | Section
    """The method's name, or its section: `{"name": "lora-a2", "pool_rank": 8}`."""
    task: str
    """model.task: classify, or generate for language modelling."""
    rounds: int
    """run.rounds."""
    seed: int
    """run.seed."""
    clients: int | Section
    """How many clients the examples are dealt to (split.clients), or the section [clients]."""
    rank: int
    """adapter.rank."""
    lr: float
    """train.lr."""
    epochs: int
    """train.epochs, passes over a client's examples a round."""
    run: Section
    split: Section
    model: Section
    adapter: Section
    train: Section
    evaluate: Section
    stage: Sequence[Section]


_FLAT = {
    "task": ("model", "task"),
    "rounds": ("run", "rounds"),
    "seed": ("run", "seed"),
    "rank": ("adapter", "rank"),
    "lr": ("train", "lr"),
    "epochs": ("train", "epochs"),
}


def config_of(config: Config | Mapping[str, Any] | str | Path | None, keys: Mapping[str, Any]) -> Config:
    """A config with some keys changed.

    Args:
        config: a `Config`, nested mappings, the path of a TOML file, or None for the defaults.
        keys: as `Keys` has them, on top of it.

    Raises:
        ConfigError: a name or a value is wrong.
    """
    tree = _tree(keys)
    if isinstance(config, str | Path):
        return changed_config(read_config(Path(config)), tree)
    if isinstance(config, Config):
        return changed_config(config, tree)
    return make_config(_together(config or {}, tree))


def _together(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two configs as nested mappings, the keys of the second on top."""
    both = {name: {**below[name], **above[name]} for name in above if _are_sections(below.get(name), above[name])}
    return {**below, **above, **both}


def _are_sections(*values: object) -> bool:
    return all(isinstance(value, Mapping) for value in values)


def _tree(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments as nested mappings."""
    tree: dict[str, Any] = {}
    for name, value in keys.items():
        if name not in Keys.__annotations__:
            raise ConfigError(_unknown(name))
        if name in _FLAT:
            section, key = _FLAT[name]
            _put(tree, section, {key: value}, name)
        elif name == "method" and not isinstance(value, Mapping):
            _put(tree, "method", {"name": value}, name)
        elif name == "clients" and not isinstance(value, Mapping):
            _put(tree, "split", {"clients": value}, name)
        elif isinstance(value, Mapping):
            _put(tree, name, value, name)
        else:
            tree[name] = list(value) if name == "stage" and isinstance(value, Sequence) else value
    return tree


def _put(tree: dict[str, Any], section: str, values: Mapping[str, Any], name: str) -> None:
    there = tree.setdefault(section, {})
    twice = sorted(there.keys() & values.keys()) if isinstance(there, dict) else []
    if twice:
        raise ConfigError(f"{section}.{twice[0]} is given twice, the second time by {name}=: leave one out.")
    there |= values


def _unknown(name: str) -> str:
    """A sentence about a keyword that there is not."""
    homes = [
        section
        for section, (kind, repeated) in sections(Config).items()
        if not repeated and name in [key.name for key in keys_of(kind)]
    ]
    if homes:
        told = " or ".join(f"{section}={{{name!r}: ...}}" for section in homes)
        return f"{name} is a key of a section: write {told}."
    return f"There is no keyword {name!r}: {nearest(name, [*Keys.__annotations__, 'data', 'base', 'tokenizer', 'out'])}"
