# SPDX-License-Identifier: Apache-2.0
"""The only file that knows all: it makes every part of a run from a config and puts them together."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from fedlora.app.build.base import load_named_base
from fedlora.app.build.clients import local_transport
from fedlora.app.build.dataset import load_dataset
from fedlora.app.build.encoding import read_parts
from fedlora.app.build.method import make_pipeline
from fedlora.app.build.trainer import answer_metrics, new_trainer
from fedlora.app.build.weights import require_weights, weight_of
from fedlora.app.config.profiles import profile_ranks
from fedlora.app.config.schema import Config, require_validation
from fedlora.core.adapter import AdapterSpec, Tensors
from fedlora.core.kinds import Kind, vera_projection
from fedlora.core.lowrank import LowRank
from fedlora.core.payload import type_of_wire
from fedlora.core.rounds import Client
from fedlora.core.seeds import stream_seed
from fedlora.errors import ConfigError, ModelError
from fedlora.federation.client_states import ClientStates, HeldClientStates
from fedlora.federation.server import Federation, Plan, Told
from fedlora.federation.transport import Transport
from fedlora.methods.base import Method
from fedlora.training.bases.loaded_model import LoadedModel
from fedlora.training.bases.model import Base
from fedlora.training.bases.peft_files import read_peft, read_projection
from fedlora.training.data.digests import example_digests
from fedlora.training.data.examples import Dataset
from fedlora.training.data.split import Split, centralized
from fedlora.training.encoding.tokens import Tokens
from fedlora.training.loop import ModelTrainer


@dataclass(frozen=True, eq=False)
class Resources:
    """What takes long to load and does not depend on the method: shared by all runs of one seed."""

    dataset: Dataset
    split: Split
    base: Base
    train: Tokens
    test: Tokens
    others: Sequence[Base] = ()
    """Copies of the base, on the further devices of the config."""

    def __repr__(self) -> str:
        return f"Resources({self.dataset!r}, {self.base!r})"

    @cached_property
    def digests(self) -> Mapping[str, str]:
        """Digests of the examples and their owners, see `example_digests`."""
        return example_digests(self.train, self.test, self.split)


@dataclass(frozen=True, kw_only=True, eq=False)
class Experiment:
    """Everything of a run, whether its clients are here or elsewhere."""

    config: Config
    base: Base
    spec: AdapterSpec
    federation: Federation
    head: Tensors
    """The dense parts that the run starts with."""
    split: Split
    """Who owns which examples; nobody is known where data stay with their owners."""
    digests: Mapping[str, str]
    """Of the examples that are here and their owners, see `example_digests`."""
    origin: str
    """Where the data come from, for the record."""
    files: Mapping[str, object] = field(default_factory=dict)
    """Name -> contents of further JSON files that describe the run."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.config.method.name!r}, data {self.origin!r}, base {self.base.name!r})"

    def keeping(self, client_states: ClientStates) -> "Experiment":
        """The same, with the states of clients that are here kept there. Clients elsewhere keep them themselves."""
        return self


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Simulation(Experiment):
    """Everything of a run on one machine."""

    dataset: Dataset
    trainer: ModelTrainer
    client_states: ClientStates
    """What the clients hold."""
    connect: Callable[[ClientStates], Transport]
    """The transport to the clients, from where their states are kept."""

    def keeping(self, client_states: ClientStates) -> "Simulation":
        """The same, with the clients' states kept there."""
        federation = replace(self.federation, transport=self.connect(client_states))
        return replace(self, client_states=client_states, federation=federation)


def load(config: Config, dataset: Dataset | None = None, loaded: LoadedModel | None = None) -> Resources:
    """Load data and base.

    Args:
        config: a whole config.
        dataset: the caller's examples, in place of the config's [data].
        loaded: the caller's model, in place of model.base.

    Raises:
        UserError: with one sentence about what is wrong.
    """
    answer_metrics(config)  # what they lack is told before anything is loaded
    dataset = dataset or load_dataset(config)
    base = load_named_base(config, dataset.labels, loaded)
    parts = read_parts(config, base, dataset)
    for sentence in parts.told:
        print(f"fedlora: {sentence}", file=sys.stderr)
    others = [base.copied_to(device) for device in config.run.devices[1:]]
    return Resources(parts.dataset, parts.split, base, parts.train, parts.test, others)


def build(config: Config, resources: Resources | None = None, workers: int | None = None) -> Simulation:
    """Make a simulation.

    Args:
        config: a whole config.
        resources: already loaded for this config's data, split, base and seed.
        workers: how many client batches of clients are served at a time, one thread each; None: one a core. Results
            do not depend on it.

    Raises:
        UserError: with one sentence about what does not fit.
    """
    pipeline = make_pipeline(config)
    method, facts = pipeline.method, pipeline.facts
    if config.evaluate.part == "validation" or facts.needs_validation:
        require_validation(config)
    require_weights(config)
    loaded = resources or load(config)
    dealt = centralized(loaded.split) if facts.centralized else loaded.split
    ranks = client_ranks(config, len(dealt.clients), method)
    spec = adapter_spec(config, loaded.base, max(ranks), method)
    tokens = {"train": loaded.train, "test": loaded.test}
    bases = [loaded.base, *loaded.others]
    trainer, *others = (
        new_trainer(config, base, spec, method, **tokens, owned=dealt.clients, unseen=dealt.unseen, device=device)
        for base, device in zip(bases, config.run.devices, strict=True)
    )
    by = config.clients.weights
    clients = [
        Client(name, len(part.train), rank, counted_as=weight_of(by, loaded.train, part.train))
        for (name, part), rank in zip(dealt.clients.items(), ranks, strict=True)
    ]
    client_states = HeldClientStates()

    def connect(states: ClientStates) -> Transport:
        return local_transport(config, clients, pipeline, [trainer, *others], workers=workers, client_states=states)

    return Simulation(
        config=config,
        base=loaded.base,
        spec=spec,
        federation=Federation(
            pipeline, spec, connect(client_states), plan_of(config), trainer, unseen=tuple(dealt.unseen)
        ),
        head=trainer.head,
        split=dealt,
        digests=loaded.digests,
        origin=loaded.dataset.origin,
        dataset=loaded.dataset,
        trainer=trainer,
        client_states=client_states,
        connect=connect,
    )


def plan_of(config: Config) -> Plan:
    """How long, with whom, and how often to look."""
    quorum = config.deploy.quorum if config.deploy else 1
    told: Told = "every metric" if config.split.kind == "natural" else "headline"
    return Plan(config.run.rounds, config.run.seed, config.clients, config.evaluate, quorum, told)


def adapter_spec(config: Config, base: Base, rank: int, method: Method) -> AdapterSpec:
    """What is trained.

    Full fine-tuning has no adapter, so that adapter.kind says nothing there.

    Raises:
        ConfigError: a rank above the smallest map.
        ModelError: a start that does not fit.
    """
    settings = config.adapter
    if settings.head == "private" and not base.head:
        raise ConfigError(
            f"adapter.head is 'private', but the base {base.name} is a language model, which has no head besides its "
            f"frozen weights: leave it out; method.name = 'fedsa' keeps a part of each adapter private."
        )
    kind: Kind = "dense" if method.facts.kinds == {"dense"} else settings.kind
    if kind == "dense" and config.model.quantization != "none":
        raise ConfigError(
            f"method.name is {config.method.name!r}, which trains every weight, but model.quantization is "
            f"{config.model.quantization!r}, which keeps weights in fewer bits than training needs: set it to 'none', "
            f"or choose another method."
        )
    smallest = min(min(shape) for shape in base.shapes.values())
    if kind == "lora" and rank > smallest:
        raise ConfigError(
            f"The largest rank is {rank}, but the smallest adapted map has only {smallest} dimensions: lower "
            f"adapter.rank or clients.ranks."
        )
    pair = _projection(config, base, rank) if kind == "vera" else None
    spec = base.spec(
        rank,
        federation_scale(config, rank, kind),
        kind,
        head=settings.head,
        projection=pair,
        wire=type_of_wire[config.run.wire],
    )
    if settings.start is None:
        return spec
    start = read_peft(Path(settings.start), base, spec)
    largest = max(start.ranks().values())
    if largest > rank:
        raise ModelError(f"adapter.start has rank {largest}, more than adapter.rank ({rank}): raise adapter.rank.")
    return replace(spec, start=start)


def _projection(config: Config, base: Base, rank: int) -> LowRank:
    """VeRA's frozen pair: that of the adapter to start from, else one that the seed draws."""
    start = config.adapter.start
    pair = read_projection(Path(start)) if start is not None else None
    if pair is None:
        return vera_projection(base.shapes, rank, stream_seed(config.run.seed, "projection") % 2**31)
    if pair.rank != rank:
        raise ModelError(f"adapter.start has rank {pair.rank}, but adapter.rank is {rank}: set it to {pair.rank}.")
    return pair


def federation_scale(config: Config, rank: int, kind: Kind) -> float:
    """s, the one number of the federation; LoRA-A2's pool has no part in it, and only LoRA has an alpha."""
    settings = config.adapter
    if kind != "lora":
        return settings.scale if settings.scale is not None and kind == "vera" else 1.0
    if settings.scale is not None:
        return settings.scale
    return settings.alpha / (rank**0.5 if settings.scaling == "rslora" else rank)


def client_ranks(config: Config, clients: int, method: Method) -> list[int]:
    """The rank or budget of every client; centralized methods have one client with the largest."""
    given = config.clients.ranks
    if given is None:
        return [config.adapter.rank] * clients
    if isinstance(given, str):
        given = profile_ranks(given, config.split.clients, config.draw)
    if method.facts.centralized:
        return [max(given)] * clients
    return [given[number % len(given)] for number in range(clients)]
