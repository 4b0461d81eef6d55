# SPDX-License-Identifier: Apache-2.0
"""A site's own config: what stays at the site, and where the shared part is."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy

from fedlora.app.build import Resources, Simulation, build, load_dataset, load_named_base
from fedlora.app.config import Config, RunSettings, read_config
from fedlora.app.sections import checked, read_tree, tree_of
from fedlora.core.rounds import Client
from fedlora.core.settings import Positive, Range
from fedlora.core.text import is_plain
from fedlora.deploy.messages import MOST_NAME
from fedlora.deploy.shared import require_deployable
from fedlora.errors import ConfigError
from fedlora.federation.settings import ClientsSettings
from fedlora.training.data import Dataset
from fedlora.training.settings import DataSettings, SplitSettings
from fedlora.training.split import Split, split
from fedlora.training.tokens import tokenise


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
    device: str = RunSettings.device
    """Where the model computes here: cpu, cuda, cuda:1, ..."""
    micro_batch: Positive | None = None
    """Examples in a forward pass, to save memory; by default the whole batch."""
    base: str | None = None
    """Where the base is here, if not where the shared config says."""


@dataclass(frozen=True)
class SiteData:
    """Its labelled texts; all labels stand in the shared config."""

    path: str
    """A file, or a folder with train.* and test.*."""
    text: str = DataSettings.text
    """The column with the text."""
    label: str = DataSettings.label
    """The column with the label."""
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
    own, folder = given.site, home / given.site.folder
    address = own.address or str(folder / "site.socket")
    if own.address and ":" not in own.address:
        address = str(home / own.address)
    places: dict[str, Any] = {
        "shared": str(home / own.shared),
        "folder": str(folder),
        "address": address,
        "key": str(home / own.key if own.key else folder / "site.key"),
    }
    data = replace(given.data, path=str(home / given.data.path))
    return SiteConfig(site=replace(own, **places), data=data)


def build_site(own: SiteConfig) -> Simulation:
    """Everything that a site holds: a federation's run, as far as this one client sees it.

    Raises:
        UserError: with one sentence about what does not fit.
    """
    shared = read_config(Path(own.site.shared))
    require_deployable(shared, Path(own.site.shared).name)
    if own.site.rank is not None and own.site.rank > shared.adapter.rank:
        raise ConfigError(
            f"site.rank is {own.site.rank}, more than the federation's largest, adapter.rank = {shared.adapter.rank}: "
            f"lower it, or agree on another adapter.rank."
        )
    config = _localised(shared, own)
    dataset = load_dataset(config)
    base = load_named_base(config, dataset.labels)
    train, test = (tokenise(texts, base.tokenizer, config.model.max_length) for texts in (dataset.train, dataset.test))
    return build(config, Resources(dataset, _one_owner(config, dataset, own.site.name), base, train, test), workers=1)


def site_client(simulation: Simulation, given: SiteConfig) -> Client:
    """Who the site is in the federation. Its weight is bounded by `deploy.most_examples`, which all have agreed on."""
    config, name = simulation.config, given.site.name
    examples = len(simulation.split.clients[name].train)
    most = config.deploy.most_examples if config.deploy else examples
    return Client(name, min(examples, most), given.site.rank or config.adapter.rank)


def _localised(shared: Config, own: SiteConfig) -> Config:
    """The shared config with this machine's paths and sizes."""
    here, model = own.site, shared.model
    return replace(
        shared,
        data=replace(shared.data, source="files", train_examples=None, test_examples=None, **tree_of(own.data)),
        model=replace(model, base=here.base or model.base),
        run=replace(shared.run, device=here.device),
        train=replace(shared.train, micro_batch=here.micro_batch),
        split=SplitSettings(validation=shared.split.validation),
        clients=ClientsSettings(client_batch=1),
    )


def _one_owner(config: Config, dataset: Dataset, name: str) -> Split:
    """All examples are the site's; a validation part is set apart as a simulation would."""
    named = replace(dataset.train, groups=(name,) * len(dataset.train))
    settings = SplitSettings(kind="natural", validation=config.split.validation)
    dealt = split(named, dataset.test, settings, config.run.seed)
    clients = {client: replace(part, test=numpy.arange(len(dataset.test))) for client, part in dealt.clients.items()}
    return replace(dealt, clients=clients)
