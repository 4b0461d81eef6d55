# SPDX-License-Identifier: Apache-2.0
"""The examples of language modelling that a config names."""

from pathlib import Path

from fedlora.app.config.choices import choices_column
from fedlora.app.config.schema import Config
from fedlora.errors import ConfigError, DataError
from fedlora.training.data.dialogue_tables import dialogues_dataset
from fedlora.training.data.examples import Dataset, Examples
from fedlora.training.data.labelled import cut_off_test, hub_rows
from fedlora.training.data.natural import file_rows
from fedlora.training.data.tables import Part, Rows, part_file, read_rows
from fedlora.training.generated.facts import generated_facts


def load_dialogues(config: Config, group: str | None) -> Dataset:
    """The examples that [data] names.

    Args:
        config: a whole config.
        group: the column that says whose an example is; None: nobody reads it.

    Raises:
        UserError: with one sentence about what is wrong.
    """
    data = config.data
    if data.source == "generated":
        return generated_facts(seed=config.draw)
    if data.path is None:
        raise ConfigError(f"data.source is {data.source!r}, but data.path is not set: say where the data are.")
    train, test = _rows(config, data.path)
    origin = Path(data.path).name if data.source == "files" else data.path
    return dialogues_dataset(data, train, test, origin, group, choices=choices_column(config))


def _rows(config: Config, path: str) -> tuple[Rows, Rows]:
    """Training and test rows; where test parts are cut out of clients, the training rows stand for both."""
    data, test_by = config.data, config.split.test_by
    if test_by is not None and data.test_examples is not None:
        raise ConfigError(
            f"data.test_examples is {data.test_examples}, but split.test_by is {test_by!r}, which cuts a test part out "
            f"of each client: leave one out; data.test_share sets the size of the parts."
        )
    if data.source == "hub":
        parts: tuple[Part, ...] = ("train",) if test_by is not None else ("train", "test")
        named = hub_rows(path, data.label, parts)
        return named["train"], named[parts[-1]]
    folder = Path(path)
    if test_by is not None:
        rows = file_rows(folder)
        return rows, rows
    if folder.is_dir():
        return read_rows(part_file(folder, "train")), read_rows(part_file(folder, "test"))
    if not folder.is_file():
        raise DataError(f"data.path is {path!r}, but there is no such file or folder.")
    return cut_off_test(read_rows(folder), data.test_share, config.draw)


def require_labels(config: Config, examples: Examples) -> None:
    """Refuse to deal by labels where there are none.

    Raises:
        DataError: the split goes by labels, and all examples are of one kind.
    """
    by_labels = config.split.kind in ("dirichlet", "pathological")
    if config.model.task == "generate" and by_labels and not examples.labels.any():
        raise DataError(
            f"split.kind is {config.split.kind!r}, which deals by labels, but the examples have no kinds: name the "
            f"column with an example's kind in data.label, or set split.kind to 'iid' or 'natural'."
        )
