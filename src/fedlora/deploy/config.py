# SPDX-License-Identifier: Apache-2.0
"""The config of a site, and the part of a config that server and sites must have alike."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy
from pydantic import Field

from fedlora.app.build import Resources, Simulation, build, load_dataset, load_named_base
from fedlora.app.config import ClientsSection, Config, Positive, SplitSection, read_config
from fedlora.app.sections import Section, checked, read_tree
from fedlora.core.rounds import Client
from fedlora.core.text import is_plain
from fedlora.errors import ConfigError
from fedlora.federation.wire import MOST_NAME
from fedlora.training.data import Dataset
from fedlora.training.model import Base
from fedlora.training.peft_files import WEIGHTS
from fedlora.training.split import Split, SplitSettings, split
from fedlora.training.tokens import tokenise

_NOT_SHARED = {"train": {"micro_batch", "tokens_a_pass"}, "model": {"base"}, "adapter": {"start"}}
"""Keys of shared sections in which machines may differ, or that are compared by content."""

_LONGEST = 60


class SiteSection(Section):
    """The site. Paths are seen from the folder of this file."""

    name: str = Field(min_length=1, description="What the site is called in the federation.")
    shared: str = Field("federation.toml", description="The shared config.")
    folder: str = Field("private", description="Where the site keeps what it never sends, and its own adapter.")
    address: str | None = Field(
        None, description="Where it listens on this machine: a file, or 127.0.0.1:PORT; FOLDER/site.socket by default."
    )
    key: str | None = Field(None, description="The file with the socket's key, made by the site; FOLDER/site.key.")
    rank: Positive | None = Field(None, description="Its rank or budget; by default the federation's largest.")
    device: str = Field("cpu", description="Where the base computes here.")
    micro_batch: Positive | None = Field(None, description="Examples a forward pass.")
    base: str | None = Field(None, description="Where the base is here, if not where the shared config says.")


class SiteData(Section):
    """Its labelled texts; all labels stand in the shared config."""

    path: str = Field(description="A file, or a folder with train.* and test.*.")
    text: str = Field("text", description="The column with the text.")
    label: str = Field("label", description="The column with the label.")
    test_share: float = Field(0.2, gt=0.0, lt=1.0, description="Of a single file, the share that becomes the test set.")


class SiteConfig(Section):
    """All of it."""

    site: SiteSection
    data: SiteData


def read_site(path: Path) -> SiteConfig:
    """Read a SITE.toml, with its paths made absolute.

    Raises:
        ConfigError: the file, a key or a value is wrong.
    """
    given, home = checked(SiteConfig, read_tree(path)), path.absolute().parent
    if not is_plain(given.site.name, MOST_NAME):
        raise ConfigError(
            f"site.name is {given.site.name[:MOST_NAME]!r}, expected one line of at most {MOST_NAME} characters."
        )
    site, folder = given.site, home / given.site.folder
    address = site.address or str(folder / "site.socket")
    if site.address and ":" not in site.address:
        address = str(home / site.address)
    places = {
        "shared": str(home / site.shared),
        "folder": str(folder),
        "address": address,
        "key": str(home / site.key if site.key else folder / "site.key"),
    }
    data = given.data.model_copy(update={"path": str(home / given.data.path)})
    return SiteConfig(site=site.model_copy(update=places), data=data)


def build_site(given: SiteConfig) -> Simulation:
    """Everything that a site holds: a federation's run, as far as this one client sees it.

    Raises:
        UserError: with one sentence about what does not fit.
    """
    shared = read_config(Path(given.site.shared))
    require_deployable(shared, Path(given.site.shared).name)
    if given.site.rank is not None and given.site.rank > shared.adapter.rank:
        raise ConfigError(
            f"site.rank is {given.site.rank}, more than the federation's largest, adapter.rank = "
            f"{shared.adapter.rank}: lower it, or agree on another adapter.rank."
        )
    config = _localised(shared, given)
    dataset = load_dataset(config)
    base = load_named_base(config, dataset.labels)
    train, test = (tokenise(texts, base.tokenizer, config.model.max_length) for texts in (dataset.train, dataset.test))
    return build(config, Resources(dataset, _one_owner(config, dataset, given.site.name), base, train, test), workers=1)


def site_client(simulation: Simulation, given: SiteConfig) -> Client:
    """Who the site is in the federation. Its weight is bounded by `deploy.most_examples`, which all have agreed on."""
    config, name = simulation.config, given.site.name
    examples = len(simulation.split.clients[name].train)
    most = config.deploy.most_examples if config.deploy else examples
    return Client(name, min(examples, most), given.site.rank or config.adapter.rank)


def _localised(shared: Config, given: SiteConfig) -> Config:
    """The shared config with this machine's paths and sizes."""
    data = {"source": "files", **given.data.model_dump(), "train_examples": None, "test_examples": None}
    model = {"base": given.site.base} if given.site.base else {}
    return shared.model_copy(
        update={
            "data": shared.data.model_copy(update=data),
            "model": shared.model.model_copy(update=model),
            "run": shared.run.model_copy(update={"device": given.site.device}),
            "train": shared.train.model_copy(update={"micro_batch": given.site.micro_batch}),
            "split": SplitSection.model_validate({"validation": shared.split.validation}),
            "clients": ClientsSection.model_validate({"client_batch": 1}),
        }
    )


def _one_owner(config: Config, dataset: Dataset, name: str) -> Split:
    """All examples are the site's; a validation part is set apart as a simulation would."""
    named = replace(dataset.train, groups=(name,) * len(dataset.train))
    settings = SplitSettings(kind="natural", validation=config.split.validation)
    dealt = split(named, dataset.test, settings, config.run.seed)
    clients = {client: replace(part, test=numpy.arange(len(dataset.test))) for client, part in dealt.clients.items()}
    return replace(dealt, clients=clients)


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
    tree: dict[str, Any] = config.model_dump(mode="json")
    found: dict[str, Any] = {"fedlora": version("fedlora")}
    for section in ("adapter", "train", "model"):
        keys = tree[section].items()
        found |= {f"{section}.{key}": value for key, value in keys if key not in _NOT_SHARED.get(section, ())}
    found |= {f"run.{key}": tree["run"][key] for key in ("seed", "rounds", "wire")}
    found |= {f"method.{key}": value for key, value in tree["method"].items()}
    found |= {
        f"wrap.{number}.{key}": value for number, entry in enumerate(tree["wrap"]) for key, value in entry.items()
    }
    found["data.labels"] = tree["data"]["labels"]
    found["split.validation"] = tree["split"]["validation"]
    if config.deploy is not None:
        found["deploy.most_examples"] = config.deploy.most_examples
    found["base weights"], found["tokenizer"] = base.fingerprint, base.tokenizer_fingerprint
    if config.adapter.start is not None:
        found["adapter.start"] = _digest(Path(config.adapter.start) / WEIGHTS)
    file, colon, kind = config.method.name.rpartition(":")
    if colon:
        found["method.name"], found["method file"] = f"{Path(file).name}:{kind}", _digest(Path(file))
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
