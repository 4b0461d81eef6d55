# SPDX-License-Identifier: Apache-2.0
"""What data, base and training are set to: the sections [data], [split], [model] and [train] of a config."""

from dataclasses import dataclass
from typing import Annotated, Literal

from fedlora.core.rounds import Duration
from fedlora.core.settings import AboveZero, Positive, Range, Share
from fedlora.errors import ConfigError
from fedlora.training.bases.quantized import Quantization
from fedlora.training.data.dialogue_rows import Format
from fedlora.training.encoding.chat_template import Turns
from fedlora.training.encoding.cutting import Truncate

SplitKind = Literal["iid", "dirichlet", "pathological", "natural"]
RENDERING = ("style", "separator", "turns", "truncate", "long_texts", "end")
"""Keys of [data] that say how examples of language modelling become token ids."""
OF_NATURAL = ("min_examples", "max_examples", "max_clients", "test_by", "unseen")
"""Keys of [split] that only natural clients have."""


@dataclass(frozen=True)
class DataSettings:
    """The examples: labelled texts, or with model.task = "generate" what is written in data.format."""

    source: Literal["generated", "files", "hub", "python"] = "generated"
    """generated: an artificial task that needs no files; files: a file or folder on disk; hub: a dataset of the
    Hugging Face hub; python: written by fedlora where the examples were handed over in Python."""
    path: str | None = None
    """files: a file, or a folder with train.* and test.* (jsonl, json, csv, tsv, parquet; plain or .gz). hub: the
    dataset's name."""
    text: str = "text"
    """The column with the text."""
    label: str = "label"
    """The column with the label. generate: the column with the kind of an example (such as its task or language), by
    which split.kind = "dirichlet" or "pathological" deals."""
    labels: list[str] | None = None
    """All labels in order; by default those of the training examples, sorted."""
    format: Format = "auto"
    """generate: how rows hold the examples; auto: found by their columns; text: plain texts; prompt-completion;
    question-answer; alpaca: instruction, input, output; messages: a list of role and content; sharegpt: a list of from
    and value."""
    prompt: str | None = None
    """generate: the column with the prompt; by default prompt, question or instruction, as data.format calls it."""
    completion: str | None = None
    """generate: the column with what is to be learned; by default completion, answer or output."""
    context: str | None = None
    """generate, alpaca: the column whose text follows the instruction, where it has any; by default input."""
    messages: str | None = None
    """generate: the column with the conversation; by default messages or conversations."""
    references: str | None = None
    """generate: the column with a list of further right answers, for scoring; by default references where there is
    one."""
    choices: str = "choices"
    """generate: the column with the list of texts among which the model chooses, the right answer among them; it is
    read where evaluate.metrics names choice or choice_per_byte."""
    style: Literal["auto", "chat"] = "auto"
    """generate; auto: conversations by the tokenizer's chat template, prompts and completions joined as they are; chat:
    prompts and completions by the chat template too."""
    separator: str = "\n"
    """generate: stands between prompt and completion without a chat template, unless the prompt ends in white space."""
    turns: Turns = "all"
    """generate: which messages of the assistant are learned; all, or only the last."""
    truncate: Truncate = "prompt_start"
    """generate: what an example longer than model.max_length loses; prompt_start: the beginning of what precedes the
    last answer; end: its end."""
    long_texts: Literal["cut", "split"] = "cut"
    """generate, plain texts; what becomes of a text longer than model.max_length. cut: it loses its end, see
    data.truncate; split: it becomes several examples of its owner, one behind another, and nothing is lost."""
    end: str | None = None
    """generate: the token that ends an answer; by default that of the chat template, or the tokenizer's eos_token."""
    test_share: Annotated[float, Range(above=0.0, below=1.0)] = 0.2
    """Where the data are a single file: the share of its examples that becomes the test set. With split.test_by: the
    share of each client's examples."""
    train_examples: Positive | None = None
    """Use only this many training examples, drawn at random by split.seed."""
    test_examples: Positive | None = None
    """Use only this many test examples, drawn at random by split.seed."""


@dataclass(frozen=True)
class SplitSettings:
    """How the training examples are distributed over the clients of a simulation."""

    kind: SplitKind = "dirichlet"
    """iid: every client gets a random sample; dirichlet: the clients' label frequencies differ, as strongly as alpha
    says; pathological: every client has two labels, which it shares with one other client; natural: a column of the
    data names the client. For language modelling the default is iid."""
    clients: Positive = 10
    """Number of clients; natural: ignored, there are as many as the column has values."""
    alpha: AboveZero = 0.5
    """dirichlet: the concentration. The smaller it is, the more the clients' labels differ: 100 is nearly iid, 0.1
    leaves most clients a few labels."""
    balanced: bool = True
    """dirichlet: a client that already has its equal share of examples gets none of the labels that are dealt later,
    which keeps the clients' sizes similar."""
    column: str | None = None
    """natural: the column that names the client to whom an example belongs."""
    min_examples: Positive | None = None
    """natural: leave out clients with fewer examples."""
    max_examples: Positive | None = None
    """natural: use only this many examples of a client that has more, drawn at random by the seed."""
    max_clients: Positive | None = None
    """natural: use only this many of the clients that have enough examples, those who never train included, drawn by
    the seed."""
    test_by: Literal["random", "order"] | None = None
    """natural: cut each client's test part (data.test_share) out of its examples in the training part of the data, and
    read no other test part; random: drawn by the seed; order: the last ones in the order of the data. By default the
    data's test set is dealt to the clients by their labels."""
    unseen: Annotated[int, Range(at_least=0)] | Share | None = None
    """natural: clients that never train, drawn by the seed: a number of them (10) or a share (0.1). They are scored as
    newcomers, on all their examples."""
    validation: Share = 0.0
    """Share of each client's training examples that is set apart for choices such as the learning rate."""
    permuted: bool = False
    """Give each client its own random permutation of the labels, so that the same text means another class at another
    client (concept shift)."""
    seed: Annotated[int, Range(at_least=0)] | None = None
    """The draw: which examples are used, who owns which, and who has which rank of a profile. By default run.seed, of
    which training depends anyway; runs with one draw and other values of run.seed differ in their training alone."""

    def __post_init__(self) -> None:
        given = [name for name in OF_NATURAL if getattr(self, name)]
        if given and self.kind != "natural":
            raise ConfigError(
                f"The config is wrong: split.{given[0]} is {getattr(self, given[0])!r}, which is for natural clients, "
                f"but split.kind is {self.kind!r}: leave it out, or set split.kind = 'natural' and split.column."
            )


@dataclass(frozen=True)
class ModelSettings:
    """The base model, whose weights stay frozen."""

    base: str = "generated"
    """generated: a small artificial encoder that needs no download; or a folder with an encoder or decoder; or the
    name of a model on the Hugging Face hub; python: written by fedlora where a model was handed over in Python."""
    task: Literal["classify", "generate"] = "classify"
    """What the model is trained for; classify: one label for each text; generate: to write text on, which a causal
    language model learns from texts, prompts with completions, or conversations."""
    max_length: Annotated[int, Range(at_least=1, at_most=100_000)] = 128
    """Longer texts are cut after this many tokens."""
    quantization: Quantization = "none"
    """How the weights of the layers' linear maps are kept; 4bit: in NormalFloat, as QLoRA does; 8bit: LLM.int8. Needs
    the package bitsandbytes; adapters, merged updates and heads stay in float32."""
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    """Data type of the base's weights; norms, attention on a CPU, head, adapters and losses are in float32 either way.
    auto: the faster one on this machine, which is measured before a run and written into its config; a deployment names
    the type."""


@dataclass(frozen=True)
class TrainSettings:
    """How a client trains in a round."""

    epochs: Positive | None = None
    """Passes over the client's training examples a round; by default 1."""
    steps: Positive | None = None
    """Optimiser steps a round, instead of epochs."""
    batch_size: Positive = 16
    """Examples in an optimiser step."""
    micro_batch: Positive | None = None
    """Examples in a forward pass, to save memory; by default the whole batch. Changes results by rounding only."""
    gradient_checkpointing: bool = False
    """Keep of every layer its input alone, and compute the layer again in the backward pass: less memory for long
    texts, and about a third more arithmetic."""
    tokens_a_pass: Positive = 1024
    """Clients are trained in one forward pass until their batches together hold about this many tokens; a GPU does
    best with many more. Changes results by rounding only."""
    trunk_cache_gb: Annotated[float, Range(at_least=0.0)] = 2.0
    """With adapter.layers: gigabytes that may hold what the layers below the adapted ones give for each example; it is
    computed once and read in all later passes and runs. 0: every pass computes it. Changes results by rounding only."""
    lr: AboveZero = 5e-4
    """Learning rate."""
    lr_b_ratio: AboveZero | None = None
    """Learning rate of B divided by that of A; by default what the method recommends (lora-a2: 5, others: 1)."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """The optimiser of the clients; its state is not kept from one round to the next."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls over all rounds of the run: not at all, or linearly or by a cosine to zero."""
    warmup: Share = 0.0
    """Share of the run in which the learning rate rises linearly from zero."""
    weight_decay: Annotated[float, Range(at_least=0.0)] = 0.0
    """Weight decay; adamw: decoupled from the gradient."""
    dropout: Share = 0.0
    """Dropout probability on the inputs of the adapters; the base model itself runs without dropout."""

    def __post_init__(self) -> None:
        if self.epochs is not None and self.steps is not None:
            raise ConfigError("The config is wrong: train.epochs and train.steps are both given: leave one out.")

    @property
    def duration(self) -> Duration:
        """How long a client trains where the method says nothing else."""
        return Duration(steps=self.steps) if self.steps is not None else Duration(epochs=self.epochs or 1)
