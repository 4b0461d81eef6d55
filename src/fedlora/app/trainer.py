# SPDX-License-Identifier: Apache-2.0
"""The trainer that a config asks for."""

from collections.abc import Mapping

from fedlora.app.config import Config
from fedlora.core.adapter import AdapterSpec
from fedlora.core.rounds import Duration
from fedlora.methods.base import Method
from fedlora.training.cohort import CohortTrainer
from fedlora.training.model import Base
from fedlora.training.split import Owned
from fedlora.training.tokens import Tokens
from fedlora.training.trainer import PlainTrainer, TrainSettings


def new_trainer(
    config: Config,
    base: Base,
    spec: AdapterSpec,
    method: Method,
    *,
    train: Tokens,
    test: Tokens,
    owned: Mapping[str, Owned],
) -> PlainTrainer:
    """What trains and scores, as the config says; who owns nothing can have it score a test set alone."""
    return CohortTrainer(
        base,
        spec,
        train_settings(config, method),
        train=train,
        test=test,
        owned=owned,
        seed=config.run.seed,
        rounds=config.run.rounds,
        device=config.run.device,
        tokens_a_pass=config.train.tokens_a_pass,
    )


def train_settings(config: Config, method: Method) -> TrainSettings:
    """How clients train; the ratio of rates is the method's own where the config is silent."""
    own = config.train
    duration = Duration(steps=own.steps) if own.steps is not None else Duration(epochs=own.epochs or 1)
    return TrainSettings(
        duration=duration,
        batch_size=own.batch_size,
        micro_batch=own.micro_batch,
        lr=own.lr,
        lr_b_ratio=own.lr_b_ratio if own.lr_b_ratio is not None else method.facts.lr_b_ratio,
        optimizer=own.optimizer,
        schedule=own.schedule,
        warmup=own.warmup,
        weight_decay=own.weight_decay,
        dropout=own.dropout,
    )
