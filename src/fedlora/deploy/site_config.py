# SPDX-License-Identifier: Apache-2.0
"""A site's own config: what stays at the site, and where the shared part is."""

from dataclasses import replace
from pathlib import Path

import numpy
from pydantic import Field

from fedlora.app.build import Resources, Simulation, build, load_dataset, load_named_base
from fedlora.app.config import ClientsSection, Config, Positive, SplitSection, read_config
from fedlora.app.sections import Section, checked, read_tree
from fedlora.core.rounds import Client
from fedlora.core.text import is_plain
from fedlora.deploy.messages import MOST_NAME
from fedlora.deploy.shared import require_deployable
from fedlora.errors import ConfigError
from fedlora.training.data import Dataset
from fedlora.training.split import Split, SplitSettings, split
from fedlora.training.tokens import tokenise


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
    own, folder = given.site, home / given.site.folder
    address = own.address or str(folder / "site.socket")
    if own.address and ":" not in own.address:
        address = str(home / own.address)
    places = {
        "shared": str(home / own.shared),
        "folder": str(folder),
        "address": address,
        "key": str(home / own.key if own.key else folder / "site.key"),
    }
    data = given.data.model_copy(update={"path": str(home / given.data.path)})
    return SiteConfig(site=own.model_copy(update=places), data=data)


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
    data = {"source": "files", **own.data.model_dump(), "train_examples": None, "test_examples": None}
    model = {"base": own.site.base} if own.site.base else {}
    return shared.model_copy(
        update={
            "data": shared.data.model_copy(update=data),
            "model": shared.model.model_copy(update=model),
            "run": shared.run.model_copy(update={"device": own.site.device}),
            "train": shared.train.model_copy(update={"micro_batch": own.site.micro_batch}),
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
