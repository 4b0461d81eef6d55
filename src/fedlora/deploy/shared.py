# SPDX-License-Identifier: Apache-2.0
"""The part of the config that server and sites must have alike, and where two of them differ."""

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fedlora.app.config import Config
from fedlora.app.sections import tree_of
from fedlora.errors import ConfigError
from fedlora.training.model import Base
from fedlora.training.peft_files import WEIGHTS

_OWN = {"train": {"micro_batch", "tokens_a_pass"}, "model": {"base"}, "adapter": {"start"}}
"""Keys of shared sections that are each machine's own affair, or are compared by content."""

_LONGEST = 60


def require_deployable(config: Config, name: str) -> None:
    """Refuse what makes sense on one machine only.

    Args:
        config: the shared config.
        name: of its file, for the sentence.

    Raises:
        ConfigError: a key is missing or in the way.
    """
    if not config.data.labels:
        raise ConfigError(f"{name}: data.labels is not set; sites see only their own: list all labels, in order.")
    if config.clients.ranks is not None:
        raise ConfigError(
            f"{name}: clients.ranks is set, but a site says its own rank: leave it out, and set adapter.rank to the "
            f"largest."
        )
    if config.split.permuted:
        raise ConfigError(f"{name}: split.permuted is true, which only a simulation can do: leave it out.")


def shared_part(config: Config, base: Base) -> dict[str, str]:
    """What must be alike, as dotted keys with values in JSON.

    Paths differ from machine to machine, so what they lead to is named by its content.
    """
    tree = tree_of(config)
    found: dict[str, Any] = {"fedlora": version("fedlora")}
    for section in ("adapter", "train", "model"):
        keys = tree[section].items()
        found |= {f"{section}.{key}": value for key, value in keys if key not in _OWN.get(section, ())}
    found |= {f"run.{key}": tree["run"][key] for key in ("seed", "rounds", "wire")}
    found |= {f"method.{key}": value for key, value in tree["method"].items()}
    found |= {f"stage.{n}.{key}": value for n, stage in enumerate(tree["stage"]) for key, value in stage.items()}
    found["data.labels"] = tree["data"]["labels"]
    found["split.validation"] = tree["split"]["validation"]
    found["evaluate.all_metrics"] = tree["evaluate"]["all_metrics"]
    if config.deploy is not None:
        found["deploy.most_examples"] = config.deploy.most_examples
    found["base weights"], found["tokenizer"] = base.fingerprint, base.tokenizer_fingerprint
    if config.adapter.start is not None:
        found["adapter.start"] = _digest(Path(config.adapter.start) / WEIGHTS)
    file, colon, kind = config.method.name.rpartition(":")
    if colon:
        found["method.name"], found["method file"] = f"{Path(file).name}:{kind}", _digest(Path(file))
    for number, stage in enumerate(config.stage):
        file, colon, kind = stage.name.rpartition(":")
        if colon:
            found[f"stage.{number}.name"] = f"{Path(file).name}:{kind}"
            found[f"stage.{number} file"] = _digest(Path(file))
    return {key: json.dumps(value) for key, value in sorted(found.items())}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def shared_digest(shared: Mapping[str, str]) -> str:
    """A shared part in a few characters."""
    return hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()


def difference(server: Mapping[str, str], site: Mapping[str, str], name: str) -> str | None:
    """A sentence about the first key in which a site differs from the server; None: they agree."""
    for key in sorted({*server, *site}):
        ours, theirs = server.get(key, "not set"), site.get(key, "not set")
        if ours != theirs:
            ours, theirs = _shown(ours, theirs), _shown(theirs, ours)
            return f"{key} is {theirs} at site {name} and {ours} at the server: give both the same."
    return None


def _shown(value: str, other: str) -> str:
    """A long value from a little before the place where it differs."""
    if len(value) <= _LONGEST:
        return value
    first = next((n for n, (a, b) in enumerate(zip(value, other, strict=False)) if a != b), 0)
    start = max(0, first - _LONGEST // 3)
    return f"{'...' if start else ''}{value[start : start + _LONGEST]}..."
