# SPDX-License-Identifier: Apache-2.0
"""The task and the trainer that a config asks for."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

from fedlora.app.config.schema import Config
from fedlora.core.adapter import AdapterSpec
from fedlora.methods.base import Method
from fedlora.training.answers import AnswerScorer
from fedlora.training.bases.model import Base
from fedlora.training.data.split import Owned
from fedlora.training.encoding.tokens import Tokens
from fedlora.training.forward.packed import fastest_forward
from fedlora.training.forward.protocol import Forward
from fedlora.training.loop import ModelTrainer
from fedlora.training.metrics.answer import AnswerMetric
from fedlora.training.metrics.named import named_metrics
from fedlora.training.settings import TrainSettings
from fedlora.training.tasks.causal_lm import CausalLM
from fedlora.training.tasks.classification import Classification
from fedlora.training.tasks.task import Task


def make_task(config: Config, labels: Sequence[str]) -> Task:
    """What the model is trained for.

    Args:
        config: a whole config.
        labels: the names of what it predicts, in order.

    Raises:
        ConfigError: evaluate.metrics names what there is not, or what needs a package that is not installed.
    """
    if config.model.task == "generate":
        return CausalLM(config.model.max_length, answer_metrics(config))
    return Classification(tuple(labels), clients_count_labels=config.evaluate.all_metrics)


def answer_metrics(config: Config, references: int | None = None) -> tuple[AnswerMetric, ...]:
    """The metrics of generated and of chosen answers that a config names, each once.

    Args:
        config: a whole config.
        references: right answers of each scored example, for signatures; None: their number varies.

    Raises:
        ConfigError: as `make_task`.
    """
    return named_metrics(list(dict.fromkeys(config.evaluate.metrics)), references)


def describe_task(task: Task, signatures: Mapping[str, str]) -> dict[str, object]:
    """What `environment.json` tells of the task, for tables and pages.

    Args:
        task: of the run.
        signatures: of some metrics, what their values were computed with.
    """
    about = {"name": task.name, "metrics": task.scoring.to_json(), "chance": task.chance}
    return about | ({"signatures": dict(signatures)} if signatures else {})


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
    forward = fastest_forward(
        base,
        spec,
        device or config.run.devices[0],
        tokens_a_pass=config.train.tokens_a_pass,
        trunk_cache_gb=config.train.trunk_cache_gb,
        checkpointing=config.train.gradient_checkpointing,
        announce=_announce,
    )
    return ModelTrainer(
        forward,
        make_task(config, base.labels),
        train_settings(config, method),
        train=train,
        test=test,
        owned=owned,
        unseen=unseen,
        seed=config.run.seed,
        rounds=config.run.rounds,
        answers=_answer_scorer(config, forward),
    )


def _answer_scorer(config: Config, forward: Forward) -> AnswerScorer | None:
    """What scores answers; None: nothing is to be answered."""
    metrics, evaluate = answer_metrics(config), config.evaluate
    if config.model.task != "generate" or not metrics:
        return None
    return AnswerScorer(forward, metrics, config.model.max_length, evaluate.most_new_tokens)


def _announce(what: str) -> None:
    print(f"fedlora: {what}", file=sys.stderr, flush=True)


def train_settings(config: Config, method: Method) -> TrainSettings:
    """How clients train; the ratio of rates is the method's where the config is silent."""
    ratio = config.train.lr_b_ratio
    return replace(config.train, lr_b_ratio=method.facts.lr_b_ratio if ratio is None else ratio)
