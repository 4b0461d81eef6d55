# SPDX-License-Identifier: Apache-2.0
"""The task and the trainer that a config asks for."""

from collections.abc import Mapping, Sequence

from fedlora.app.config import Config
from fedlora.core.adapter import AdapterSpec
from fedlora.core.rounds import Duration
from fedlora.methods.base import Method
from fedlora.training.client_fit import TrainSettings
from fedlora.training.forward.packed import fastest_forward
from fedlora.training.loop import ModelTrainer
from fedlora.training.model import Base
from fedlora.training.split import Owned
from fedlora.training.task import Task
from fedlora.training.tasks.classification import Classification
from fedlora.training.tokens import Tokens


def make_task(labels: Sequence[str]) -> Task:
    """What the model is trained for, with the names of what it predicts."""
    return Classification(tuple(labels))


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
) -> ModelTrainer:
    """What trains and scores, as the config says; who owns nothing can have it score a test set alone."""
    return ModelTrainer(
        fastest_forward(base, spec, config.run.device, config.train.tokens_a_pass),
        make_task(base.labels),
        train_settings(config, method),
        train=train,
        test=test,
        owned=owned,
        seed=config.run.seed,
        rounds=config.run.rounds,
    )


def train_settings(config: Config, method: Method) -> TrainSettings:
    """How clients train; the ratio of rates is the method's own where the config is silent."""
    train = config.train
    duration = Duration(steps=train.steps) if train.steps is not None else Duration(epochs=train.epochs or 1)
    return TrainSettings(
        duration=duration,
        batch_size=train.batch_size,
        micro_batch=train.micro_batch,
        lr=train.lr,
        lr_b_ratio=train.lr_b_ratio if train.lr_b_ratio is not None else method.lr_b_ratio,
        optimizer=train.optimizer,
        schedule=train.schedule,
        warmup=train.warmup,
        weight_decay=train.weight_decay,
        dropout=train.dropout,
    )
