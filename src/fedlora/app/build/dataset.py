# SPDX-License-Identifier: Apache-2.0
"""The examples that a config names, and who owns which."""

from dataclasses import replace
from pathlib import Path

from fedlora.app.build.dialogues import load_dialogues, require_labels
from fedlora.app.config.schema import Config
from fedlora.errors import ConfigError
from fedlora.training.bases.loaded_model import PYTHON
from fedlora.training.data.examples import Dataset, take_some
from fedlora.training.data.labelled import Columns, from_files, from_hub, from_rows, hub_rows
from fedlora.training.data.natural import file_rows, require_several_owners
from fedlora.training.data.split import Split, split
from fedlora.training.generated.requests import generated_dataset


def load_dataset(config: Config) -> Dataset:
    """The examples that [data] names. Where test parts are cut out of clients, that comes with `deal`."""
    data, seed = config.data, config.draw
    group = config.split.column if config.split.kind == "natural" else None
    columns = Columns(data.text, data.label, group)
    if data.source == PYTHON:
        raise ConfigError("data.source is 'python': the examples were handed over in Python, so hand them over again.")
    if config.model.task == "generate":
        dataset = load_dialogues(config, group)
    elif data.source == "generated":
        dataset = generated_dataset(seed=seed)
    elif data.path is None:
        raise ConfigError(f"data.source is {data.source!r}, but data.path is not set: say where the data are.")
    elif config.split.test_by is not None:
        dataset = _without_test_part(config, data.path, columns)
    elif data.source == "files":
        labels = tuple(data.labels) if data.labels else None
        dataset = from_files(Path(data.path), columns, data.test_share, seed, labels)
    else:
        dataset = from_hub(data.path, columns, data.labels)
    return take_some(dataset, data.train_examples, data.test_examples, seed)


def _without_test_part(config: Config, path: str, columns: Columns) -> Dataset:
    """The training examples, which stand for the test set too, until `deal` cuts it out of the clients."""
    data, test_by = config.data, config.split.test_by
    if data.test_examples is not None:
        raise ConfigError(
            f"data.test_examples is {data.test_examples}, but split.test_by is {test_by!r}, which cuts a test part out "
            f"of each client: leave one out; data.test_share sets the size of the parts."
        )
    if data.source == "hub":
        rows, origin = hub_rows(path, data.label, ("train",))["train"], path
    else:
        rows, origin = file_rows(Path(path)), Path(path).name
    return from_rows(rows, rows, columns, origin, data.labels)


def deal(config: Config, dataset: Dataset) -> tuple[Dataset, Split]:
    """Who owns which example, and the examples with the test set that was cut out of the clients where one was."""
    require_labels(config, dataset.train)
    if config.split.kind == "natural":
        require_several_owners(dataset.train, config.split.column)
    dealt = split(dataset.train, dataset.test, config.split, config.draw, config.data.test_share)
    return dataset if dealt.test is None else replace(dataset, test=dataset.train.take(dealt.test)), dealt
