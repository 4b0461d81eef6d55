# SPDX-License-Identifier: Apache-2.0
"""The task and the trainer that a config asks for."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

from fedlora.app.config import Config
from fedlora.core.adapter import AdapterSpec
from fedlora.methods.base import Method
from fedlora.training.forward.packed import fastest_forward
from fedlora.training.loop import ModelTrainer
from fedlora.training.model import Base
from fedlora.training.settings import TrainSettings
from fedlora.training.split import Owned
from fedlora.training.task import Task
from fedlora.training.tasks.causal_lm import CausalLM
from fedlora.training.tasks.classification import Classification
from fedlora.training.tokens import Tokens


def make_task(config: Config, labels: Sequence[str]) -> Task:
    """What the model is trained for.

    Args:
        config: a whole config.
        labels: the names of what it predicts, in order.
    """
    if config.model.task == "generate":
        return CausalLM(config.model.max_length)
    return Classification(tuple(labels), clients_count_labels=config.evaluate.all_metrics)


def describe_task(task: Task) -> dict[str, object]:
    """What `environment.json` tells of the task, for tables and pages."""
    return {"name": task.name, "metrics": task.scoring.to_json(), "chance": task.chance}


def new_trainer(
    config: Config,
    base: Base,
    spec: AdapterSpec,
    method: Method,
    *,
    train: Tokens,
    test: Tokens,
    owned: Mapping[str, Owned],
    unseen: Mapping[str, Owned] | None = None,
    device: str | None = None,
) -> ModelTrainer:
    """What trains and scores, as the config says; who owns nothing can have it score a test set alone.

    Args:
        config: a whole config.
        base: the resident model.
        spec: the adapter.
        method: recommends what the config leaves open.
        train: all training examples.
        test: the server's test set.
        owned: which of them are whose.
        unseen: those of clients that never train.
        device: where the base is; None: on the first of run.device.
    """
    return ModelTrainer(
        fastest_forward(
            base,
            spec,
            device or config.run.devices[0],
            tokens_a_pass=config.train.tokens_a_pass,
            trunk_cache_gb=config.train.trunk_cache_gb,
            checkpointing=config.train.gradient_checkpointing,
            announce=_announce,
        ),
        make_task(config, base.labels),
        train_settings(config, method),
        train=train,
        test=test,
        owned=owned,
        unseen=unseen,
        seed=config.run.seed,
        rounds=config.run.rounds,
    )


def _announce(what: str) -> None:
    print(f"fedlora: {what}", file=sys.stderr, flush=True)


def train_settings(config: Config, method: Method) -> TrainSettings:
    """How clients train; the ratio of rates is the method's where the config is silent."""
    ratio = config.train.lr_b_ratio
    return replace(config.train, lr_b_ratio=method.facts.lr_b_ratio if ratio is None else ratio)
