# SPDX-License-Identifier: Apache-2.0
"""The config of a site, and the part of a config that server and sites must have alike."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy

from fedlora.app.build.base import load_named_base
from fedlora.app.build.dataset import load_dataset
from fedlora.app.build.encoding import encode, with_choices
from fedlora.app.build.simulation import Resources, Simulation, build
from fedlora.app.config.paths import path_or_name
from fedlora.app.config.schema import Config, RunSettings, read_config
from fedlora.app.config.sections import checked, read_tree, tree_of
from fedlora.core.rounds import Client
from fedlora.core.settings import Positive, Range
from fedlora.core.text import is_plain
from fedlora.deploy.log import say
from fedlora.errors import ConfigError
from fedlora.federation.settings import ClientsSettings
from fedlora.federation.wire import MOST_NAME
from fedlora.training.bases.model import Base
from fedlora.training.bases.peft_files import WEIGHTS
from fedlora.training.data.dialogue_rows import Format
from fedlora.training.data.examples import Dataset
from fedlora.training.data.split import Split, split
from fedlora.training.settings import OF_NATURAL, RENDERING, DataSettings, SplitSettings

_NOT_SHARED = {
    "train": {"micro_batch", "tokens_a_pass", "trunk_cache_gb", "gradient_checkpointing"},
    "model": {"base"},
    "adapter": {"start"},
}
"""Keys of shared sections in which machines may differ, or that are compared by content."""

_LONGEST = 60


@dataclass(frozen=True)
class SiteSettings:
    """The site. Paths are seen from the folder of this file."""

    name: Annotated[str, Range(entries=1)]
    """Name of the site in the federation."""
    shared: str = "federation.toml"
    """The shared config."""
    folder: str = "private"
    """Where the site keeps what it never sends, and its own adapter."""
    address: str | None = None
    """Where it listens on this machine: a file, or 127.0.0.1:PORT; FOLDER/site.socket by default."""
    key: str | None = None
    """The file with the socket's key, made by the site; FOLDER/site.key by default."""
    rank: Positive | None = None
    """Its rank or budget; by default the federation's largest."""
    device: str = RunSettings().devices[0]
    """Where the model computes here: cpu, cuda, cuda:1, ..."""
    micro_batch: Positive | None = None
    """Examples in a forward pass, to save memory; by default the whole batch."""
    base: str | None = None
    """Where the base is here, if not where the shared config says."""


@dataclass(frozen=True)
class SiteData:
    """Its labelled texts, whose labels all stand in the shared config; or its texts to learn to write."""

    path: str
    """A file, or a folder with train.* and test.*."""
    text: str = DataSettings.text
    """The column with the text."""
    label: str = DataSettings.label
    """The column with the label."""
    format: Format | None = None
    """generate: how its rows hold the examples; by default as the shared config says. The columns below likewise."""
    prompt: str | None = None
    """generate: the column with the prompt."""
    completion: str | None = None
    """generate: the column with what is to be learned."""
    context: str | None = None
    """generate, alpaca: the column whose text follows the instruction."""
    messages: str | None = None
    """generate: the column with the conversation."""
    test_share: Annotated[float, Range(above=0.0, below=1.0)] = DataSettings.test_share
    """Where the data are a single file: the share of its examples that becomes the test set."""


@dataclass(frozen=True)
class SiteConfig:
    """All of it."""

    site: SiteSettings
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
    if site.base is not None:
        site = replace(site, base=path_or_name(site.base, home))
    if site.address and ":" not in site.address:
        address = str(home / site.address)
    places: dict[str, Any] = {
        "shared": str(home / site.shared),
        "folder": str(folder),
        "address": address,
        "key": str(home / site.key if site.key else folder / "site.key"),
    }
    data = replace(given.data, path=str(home / given.data.path))
    return SiteConfig(site=replace(site, **places), data=data)


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
    train, test = (
        encode(config, base, part, name, None) for part, name in ((dataset.train, "training"), (dataset.test, "test"))
    )
    dataset = replace(dataset, train=dataset.train.take(train.kept), test=dataset.test.take(test.kept))
    split = _one_owner(config, dataset, given.site.name)
    trained, tested, cut = with_choices(config, base, dataset, split, train=train.tokens, test=test.tokens)
    for sentence in (*train.told, *test.told, *cut):
        say(sentence)
    return build(config, Resources(dataset, split, base, trained, tested), workers=1)


def site_client(simulation: Simulation, given: SiteConfig) -> Client:
    """Who the site is in the federation. Its weight is bounded by `deploy.most_examples`, which all have agreed on."""
    config, name = simulation.config, given.site.name
    (here,) = simulation.federation.transport.roster()
    most = min(here.examples, config.deploy.most_examples if config.deploy else here.examples)
    weight = here.counted_as
    if config.clients.weights == "tokens" and weight is not None:
        weight = min(weight, float(most * config.model.max_length))
    return Client(name, most, given.site.rank or config.adapter.rank, counted_as=weight)


def _localised(shared: Config, given: SiteConfig) -> Config:
    """The shared config with this machine's paths and sizes."""
    here, model = given.site, shared.model
    data = {key: value for key, value in tree_of(given.data).items() if value is not None}
    return replace(
        shared,
        data=replace(shared.data, source="files", train_examples=None, test_examples=None, **data),
        model=replace(model, base=here.base or model.base),
        run=replace(shared.run, device=here.device),
        train=replace(shared.train, micro_batch=here.micro_batch),
        split=SplitSettings(validation=shared.split.validation),
        clients=ClientsSettings(client_batch=1, weights=shared.clients.weights),
    )


def _one_owner(config: Config, dataset: Dataset, name: str) -> Split:
    """All examples are the site's; a validation part is set apart as a simulation would."""
    named = dataset.train.owned_by(name)
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
    if config.model.task == "classify" and not config.data.labels:
        raise ConfigError(f"{name}: data.labels is not set; sites see only their own: list all labels, in order.")
    if config.model.dtype == "auto":
        raise ConfigError(
            f"{name}: model.dtype is 'auto', and all members need the same type: set it to float32 or bfloat16."
        )
    if config.clients.ranks is not None:
        raise ConfigError(
            f"{name}: clients.ranks is set, but a site says its own rank: leave it out, and set adapter.rank to the "
            f"largest."
        )
    for key in OF_NATURAL:
        value = getattr(config.split, key)
        if value:
            raise ConfigError(f"{name}: split.{key} is {value!r}, which only a simulation can do: leave it out.")
    if config.split.permuted:
        raise ConfigError(f"{name}: split.permuted is true, which only a simulation can do: leave it out.")


def shared_part(config: Config, base: Base) -> dict[str, str]:
    """What must be alike, as dotted keys with values in JSON.

    These are the keys that change what a site computes or tells. Paths differ from machine to machine, so what they
    lead to is named by its content.
    """
    tree = tree_of(config)
    found: dict[str, Any] = {"fedlora": version("fedlora")}
    for section in ("adapter", "train", "model"):
        keys = tree[section].items()
        found |= {f"{section}.{key}": value for key, value in keys if key not in _NOT_SHARED.get(section, ())}
    found |= {f"run.{key}": tree["run"][key] for key in ("seed", "wire")}
    if config.train.schedule != "constant" or config.train.warmup > 0.0:
        found["run.rounds"] = config.run.rounds  # otherwise the server's affair: a site trains the same in every round
    found |= {f"method.{key}": value for key, value in tree["method"].items()}
    found |= {f"stage.{n}.{key}": value for n, stage in enumerate(tree["stage"]) for key, value in stage.items()}
    if config.model.task == "generate":
        found |= {f"data.{key}": tree["data"][key] for key in RENDERING}
        found["chat template"] = str(base.tokenizer.chat_template)
    else:
        found["data.labels"] = tree["data"]["labels"]
    found["split.validation"] = tree["split"]["validation"]
    found["clients.weights"] = tree["clients"]["weights"]
    found |= {f"evaluate.{key}": tree["evaluate"][key] for key in ("all_metrics", "metrics", "most_new_tokens")}
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
