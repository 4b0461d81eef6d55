# SPDX-License-Identifier: Apache-2.0
"""The config: every section with its keys, and a default that works for each."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedlora.app.profiles import Profile
from fedlora.app.sections import Section, checked, override_key, read_tree
from fedlora.errors import ConfigError

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]


class RunSection(Section):
    """The run as a whole."""

    name: str = Field("run", description="What the run is called; its folder is runs/NAME unless --out says otherwise.")
    seed: int = Field(0, ge=0, description="Names every random stream of the run.")
    rounds: Positive = Field(20, description="Rounds of federated training.")
    device: str = Field("cpu", description="Where the base computes: cpu, cuda, cuda:1, ...")
    wire: Literal["float32", "bfloat16"] = Field("float32", description="The type in which tensors travel.")


class DataSection(Section):
    """Labelled texts."""

    source: Literal["generated", "files", "hub"] = Field(
        "generated", description="A generated task that needs nothing, files on disk, or a dataset of the hub."
    )
    path: str | None = Field(
        None,
        description="files: a file, or a folder with train.* and test.* (jsonl, json, csv, tsv, parquet; plain or "
        ".gz). hub: the dataset's name.",
    )
    text: str = Field("text", description="The column with the text.")
    label: str = Field("label", description="The column with the label.")
    labels: list[str] | None = Field(None, description="All labels in order; by default those of training, sorted.")
    test_share: float = Field(0.2, gt=0.0, lt=1.0, description="Of a single file, the share that becomes the test set.")
    train_examples: Positive | None = Field(None, description="Use only so many training examples, drawn by the seed.")
    test_examples: Positive | None = Field(None, description="Use only so many test examples, drawn by the seed.")


class SplitSection(Section):
    """Who owns which examples."""

    kind: Literal["iid", "dirichlet", "pathological", "natural"] = Field(
        "dirichlet",
        description="Alike; skewed labels per class; pairs of clients that share two classes; by a column of the data.",
    )
    clients: Positive = Field(10, description="How many (natural: as many as the column has values).")
    alpha: float = Field(0.5, gt=0.0, description="dirichlet: small is skewed.")
    balanced: bool = Field(True, description="dirichlet: a client that has its share gets no more of later classes.")
    column: str | None = Field(None, description="natural: the column that names the owner.")
    validation: Share = Field(0.0, description="Share of each client's training examples set apart for choices.")
    permuted: bool = Field(
        False, description="Every client has numbered the labels its own way: concepts differ, not only data."
    )
    time_limit: float = Field(60.0, gt=0.0, description="Seconds after which a split that does not end is given up.")


class ModelSection(Section):
    """The base."""

    base: str = Field(
        "generated", description="A small generated encoder, a folder with an encoder or decoder, or a name on the hub."
    )
    task: Literal["classify"] = Field("classify", description="What the model does.")
    max_length: Positive = Field(128, description="Tokens after which a text is cut.")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="The type of the base's weights.")


class AdapterSection(Section):
    """What is trained."""

    kind: Literal["lora", "vera", "dense"] = Field(
        "lora", description="Factors of each map; two vectors a map over one frozen random pair; or every parameter."
    )
    rank: Positive = Field(
        8, description="Every client's rank or budget; with clients.ranks the largest of those, whatever stands here."
    )
    alpha: float = Field(16.0, gt=0.0, description="The scale is alpha / rank (rslora: alpha / root of the rank).")
    scaling: Literal["classic", "rslora"] = Field("classic", description="How alpha becomes the scale.")
    scale: float | None = Field(None, gt=0.0, description="The scale itself, in place of alpha and scaling.")
    targets: list[str] | None = Field(
        None, description="Ends of the names of the maps to adapt; by default every linear map of the layers."
    )
    layers: list[int] | None = Field(None, description="Numbers of the layers to adapt; by default all.")
    head: Literal["shared", "frozen", "private"] = Field(
        "shared", description="The classifier head: averaged, left random as it is, or kept by each client."
    )
    start: str | None = Field(None, description="A PEFT folder to go on from.")


class ClientsSection(Section):
    """How clients differ, and who takes part."""

    ranks: Annotated[list[Positive], Field(min_length=1)] | Profile | None = Field(
        None,
        description="A rank or budget for each client (a shorter list is repeated), or the name of a profile that "
        "spreads them: uniform (2 to 32), heavy-tail (2 to 16, most of them small), normal (1 to 16).",
    )
    per_round: Positive | None = Field(None, description="Clients drawn for a round; by default all.")
    dropout: Share = Field(0.0, description="Probability that a drawn client cannot be reached.")
    norm_limit: float = Field(
        1e6, gt=0.0, description="An upload whose numbers together have a larger Euclidean norm is refused."
    )
    client_batch: Positive | None = Field(
        None, description="Clients that are served together; by default 1 on the CPU and 16 on a GPU."
    )


class TrainSection(Section):
    """How a client trains."""

    epochs: Positive | None = Field(None, description="Passes over the client's examples a round; 1 by default.")
    steps: Positive | None = Field(None, description="Optimiser steps a round, in place of epochs.")
    batch_size: Positive = Field(16, description="Examples an optimiser step.")
    micro_batch: Positive | None = Field(None, description="Examples a forward pass; by default the whole batch.")
    tokens_a_pass: Positive = Field(
        1024,
        description="Clients of a batch train together while their examples hold about so many tokens; larger "
        "fits a GPU. Changes results by rounding only.",
    )
    lr: float = Field(5e-4, gt=0.0, description="Learning rate.")
    lr_b_ratio: float | None = Field(
        None,
        gt=0.0,
        description="The rate of B over that of A; by default the method's own (lora-a2: 5, others: 1).",
    )
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="Fresh for every client and round.")
    schedule: Literal["constant", "linear", "cosine"] = Field("constant", description="Over the whole run.")
    warmup: Share = Field(0.0, description="Share of the run in which the rate rises from zero.")
    weight_decay: float = Field(0.0, ge=0.0, description="Decoupled for adamw.")
    dropout: Share = Field(0.0, description="On the adapters' inputs; the base itself runs without.")

    @model_validator(mode="after")
    def _one_amount(self) -> Self:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("train.epochs and train.steps are both given: leave one out")
        return self


class MethodSection(BaseModel):
    """The method and its own fields, which `fedlora methods` lists."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    name: str = Field("lora-a2", description="A built-in method, or path/to/file.py:Class.")

    @property
    def options(self) -> dict[str, Any]:
        """The method's own fields."""
        return dict(self.model_extra or {})


class StageSection(BaseModel):
    """A stage between method and wire; the first one stands next to the method. Written as [[stage]], once each."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    name: str = Field(
        description="fedprox, clip, fedavgm, fedadam, or path/to/file.py:Class; further keys are the stage's fields."
    )

    @property
    def options(self) -> dict[str, Any]:
        """The stage's fields."""
        return dict(self.model_extra or {})


class EvaluateSection(Section):
    """When and where to look."""

    every: int = Field(1, ge=0, description="Score after so many rounds, and after the last; 0: only after the last.")
    part: Literal["test", "validation"] = Field(
        "test", description="What to score on: the test set, or the examples that split.validation sets apart."
    )


class DeploySection(Section):
    """A federation across sites: whom the server waits for, and how long."""

    sites: Positive = Field(description="How many sites must be there before the first round.")
    wait: float = Field(300.0, gt=0.0, description="Seconds in which they must have come.")
    deadline: float | None = Field(
        None,
        gt=0.0,
        description="Seconds after which a round goes on without those that have not answered. By default three times "
        "the slowest answer of the last five rounds and at least 30; before there is one, an hour.",
    )
    quorum: Positive = Field(1, description="The run stops, to be resumed, where fewer sites than this give an update.")
    most_examples: Positive = Field(
        100_000,
        description="No site counts for more training examples than this, for a weight is what a site says: set it to "
        "the largest site that you expect. A site with more counts for this many.",
    )
    test: str | None = Field(
        None, description="A file of labelled texts at the server, on which the global model is scored."
    )


class Config(Section):
    """All sections."""

    run: RunSection = Field(default_factory=lambda: RunSection.model_validate({}))
    data: DataSection = Field(default_factory=lambda: DataSection.model_validate({}))
    split: SplitSection = Field(default_factory=lambda: SplitSection.model_validate({}))
    model: ModelSection = Field(default_factory=lambda: ModelSection.model_validate({}))
    adapter: AdapterSection = Field(default_factory=lambda: AdapterSection.model_validate({}))
    clients: ClientsSection = Field(default_factory=lambda: ClientsSection.model_validate({}))
    train: TrainSection = Field(default_factory=lambda: TrainSection.model_validate({}))
    method: MethodSection = Field(default_factory=lambda: MethodSection.model_validate({}))
    evaluate: EvaluateSection = Field(default_factory=lambda: EvaluateSection.model_validate({}))
    stage: list[StageSection] = Field(default_factory=list)
    deploy: DeploySection | None = None


def require_validation(config: Config) -> None:
    """Refuse to score on a validation part that is not there.

    Raises:
        ConfigError: split.validation is zero.
    """
    if config.split.validation == 0:
        raise ConfigError("split.validation is 0.0, so there are no examples to choose on: set it to, say, 0.1.")


def read_config(path: Path | None, overrides: Sequence[str] = ()) -> Config:
    """Read a TOML file (None: defaults alone) and apply `section.key=value` overrides.

    Raises:
        ConfigError: the file, a key or a value is wrong.
    """
    tree = read_tree(path) if path is not None else {}
    for override in overrides:
        override_key(tree, override)
    return make_config(tree)


def make_config(tree: Mapping[str, Any]) -> Config:
    """A config from nested mappings.

    Raises:
        ConfigError: a key or a value is wrong.
    """
    if "wrap" in tree:
        raise ConfigError("The config has a section [[wrap]], which is called [[stage]] now: rename it; its keys stay.")
    return checked(Config, tree)


def resolved(config: Config) -> str:
    """The config as TOML with every default filled in; keys without a value are left out."""
    tree = config.model_dump(mode="json", exclude_none=True)
    return tomli_w.dumps(tree)
