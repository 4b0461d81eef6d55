# SPDX-License-Identifier: Apache-2.0
"""The trainer that a config asks for."""

from collections.abc import Mapping
from dataclasses import replace

from fedlora.app.config import Config
from fedlora.core.adapter import AdapterSpec
from fedlora.methods.base import Method
from fedlora.training.cohort import CohortTrainer
from fedlora.training.model import Base
from fedlora.training.settings import TrainSettings
from fedlora.training.split import Owned
from fedlora.training.tokens import Tokens
from fedlora.training.trainer import PlainTrainer


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
    """How clients train; the ratio of rates is the method's where the config is silent."""
    ratio = config.train.lr_b_ratio
    return replace(config.train, lr_b_ratio=method.lr_b_ratio if ratio is None else ratio)
