# SPDX-License-Identifier: Apache-2.0
"""The only file that knows all: it makes every part of a run from a config and puts them together."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import torch

from fedlora.app.config import Config, require_validation
from fedlora.app.method import make_pipeline
from fedlora.app.profiles import profile_ranks
from fedlora.app.trainer import make_task, new_trainer
from fedlora.core.adapter import AdapterSpec, Tensors
from fedlora.core.kinds import Kind, vera_projection
from fedlora.core.payload import type_of_wire
from fedlora.core.rounds import Client
from fedlora.core.seeds import stream_seed
from fedlora.errors import ConfigError, ModelError
from fedlora.federation.client_states import ClientStates, HeldClientStates
from fedlora.federation.executor import Threads
from fedlora.federation.local import LocalTransport
from fedlora.federation.server import Federation, Plan
from fedlora.federation.transport import Transport
from fedlora.methods.base import Method
from fedlora.training.data import Columns, Dataset, from_files, from_hub, take_some
from fedlora.training.digests import example_digests
from fedlora.training.generated import NAME as GENERATED
from fedlora.training.generated import generated_base, generated_dataset
from fedlora.training.handed import PYTHON, LoadedModel, handed_base
from fedlora.training.loop import ModelTrainer
from fedlora.training.model import Base, load_base
from fedlora.training.peft_files import read_peft
from fedlora.training.split import Split, centralized, split
from fedlora.training.tokens import Tokens


@dataclass(frozen=True, eq=False)
class Resources:
    """What takes long to load and does not depend on the method: shared by all runs of one seed."""

    dataset: Dataset
    split: Split
    base: Base
    train: Tokens
    test: Tokens

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
    dataset = dataset or load_dataset(config)
    dealt = deal(config, dataset)
    base = load_named_base(config, dataset.labels, loaded)
    cut, fingerprint = config.model.max_length, base.tokenizer_fingerprint
    task = make_task(config, dataset.labels)
    train, test = (task.encode(part, base.tokenizer, fingerprint, cut) for part in (dataset.train, dataset.test))
    return Resources(dataset, dealt, base, train, test)


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
    loaded = resources or load(config)
    dealt = centralized(loaded.split) if facts.centralized else loaded.split
    ranks = client_ranks(config, len(dealt.clients), method)
    spec = adapter_spec(config, loaded.base, max(ranks), method)
    trainer = new_trainer(config, loaded.base, spec, method, train=loaded.train, test=loaded.test, owned=dealt.clients)
    sizes = {name: len(part.train) for name, part in dealt.clients.items()}
    clients = [Client(name, size, rank) for (name, size), rank in zip(sizes.items(), ranks, strict=True)]
    threads = 1 if config.train.dropout > 0.0 or not on_cpu(config) else workers or cores()
    client_states = HeldClientStates()

    def connect(states: ClientStates) -> Transport:
        return LocalTransport(
            clients,
            pipeline,
            trainer,
            client_batch=config.clients.client_batch or (1 if on_cpu(config) else 16),
            executor=partial(Threads, count=threads),
            client_states=states,
        )

    return Simulation(
        config=config,
        base=loaded.base,
        spec=spec,
        federation=Federation(pipeline, spec, connect(client_states), plan_of(config), trainer),
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
    return Plan(config.run.rounds, config.run.seed, config.clients, config.evaluate, quorum)


def on_cpu(config: Config) -> bool:
    """Whether the base computes on the CPU: there clients gain by cores, on a GPU by company."""
    return torch.device(config.run.device).type == "cpu"


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_dataset(config: Config) -> Dataset:
    """The examples that [data] names."""
    data, seed = config.data, config.run.seed
    group = config.split.column if config.split.kind == "natural" else None
    columns = Columns(data.text, data.label, group)
    if data.source == PYTHON:
        raise ConfigError("data.source is 'python': the examples were handed over in Python, so hand them over again.")
    if data.source == "generated":
        dataset = generated_dataset(seed=seed)
    elif data.path is None:
        raise ConfigError(f"data.source is {data.source!r}, but data.path is not set: say where the data are.")
    elif data.source == "files":
        labels = tuple(data.labels) if data.labels else None
        dataset = from_files(Path(data.path), columns, data.test_share, seed, labels)
    else:
        dataset = from_hub(data.path, columns, data.labels)
    return take_some(dataset, data.train_examples, data.test_examples, seed)


def deal(config: Config, dataset: Dataset) -> Split:
    """Who owns which example."""
    return split(dataset.train, dataset.test, config.split, config.run.seed)


def load_named_base(config: Config, labels: Sequence[str], loaded: LoadedModel | None = None) -> Base:
    """The base that [model] names, or that the caller has, on its device, with the maps of [adapter]."""
    name = config.model.base
    if name == PYTHON and loaded is None:
        raise ConfigError(
            "model.base is 'python': the model was handed over in Python, so hand it over again, or name its folder."
        )
    make = partial(load_base, str(generated_base()) if name == GENERATED and loaded is None else name)
    base = (partial(handed_base, loaded) if loaded is not None else make)(
        labels,
        targets=config.adapter.targets,
        layers=config.adapter.layers,
        dtype=type_of_wire[config.model.dtype],
        seed=config.run.seed,
    )
    try:
        base.model.to(torch.device(config.run.device))
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"run.device is {config.run.device!r}, which cannot be used here: {first}") from error
    return base


def adapter_spec(config: Config, base: Base, rank: int, method: Method) -> AdapterSpec:
    """What is trained.

    A method that takes a single kind of adapter gets that kind.

    Raises:
        ConfigError: a rank above the smallest map.
        ModelError: a start that does not fit.
    """
    settings = config.adapter
    kind = next(iter(method.facts.kinds)) if len(method.facts.kinds) == 1 else settings.kind
    smallest = min(min(shape) for shape in base.shapes.values())
    if kind == "lora" and rank > smallest:
        raise ConfigError(
            f"The largest rank is {rank}, but the smallest adapted map has only {smallest} dimensions: lower "
            f"adapter.rank or clients.ranks."
        )
    key = stream_seed(config.run.seed, "projection") % 2**31
    pair = vera_projection(base.shapes, rank, key) if kind == "vera" else None
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
        given = profile_ranks(given, config.split.clients, config.run.seed)
    if method.facts.centralized:
        return [max(given)] * clients
    return [given[number % len(given)] for number in range(clients)]
