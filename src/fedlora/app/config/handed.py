# SPDX-License-Identifier: Apache-2.0
"""What Python callers hand over as `data` and `base`: names, or the things themselves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from fedlora.app.config.choices import choices_column
from fedlora.app.config.keys import config_of
from fedlora.app.config.paths import is_path
from fedlora.app.config.schema import Config, changed_config
from fedlora.core.payload import type_of_wire
from fedlora.errors import ConfigError
from fedlora.training.bases.loaded_model import PYTHON, LoadedModel, from_table, is_model, table_parts
from fedlora.training.data.dialogue_tables import dialogues_dataset
from fedlora.training.data.examples import Dataset, Texts, take_some
from fedlora.training.data.labelled import Columns

if TYPE_CHECKING:
    import datasets
    import transformers

Data: TypeAlias = Union[
    Dataset, "datasets.Dataset", "datasets.DatasetDict", Sequence[Mapping[str, Any]], Mapping[str, Any], str, Path
]
"""Examples (`from_lists`, a `datasets.Dataset`, a list of rows, a `DatasetDict` or a mapping of lists with train and
test), the path of a file or folder, a name on the hub, or the section [data]."""
BaseModel: TypeAlias = Union["transformers.PreTrainedModel", str, Path]
"""A loaded model, a folder, or a name on the hub."""


@dataclass(frozen=True)
class Handed:
    """A config with what the caller handed over beside it."""

    config: Config
    dataset: Dataset | None
    """In place of [data]."""
    model: LoadedModel | None
    """In place of model.base."""


def handed(
    config: Config | Mapping[str, Any] | str | Path | None,
    data: Data | None,
    base: BaseModel | None,
    tokenizer: Any,
    keys: Mapping[str, Any],
) -> Handed:
    """Put together what a Python call was given.

    Args:
        config: see `config_of`.
        data: see `Data`.
        base: see `BaseModel`.
        tokenizer: of a loaded model; None: it is loaded by the model's name.
        keys: see `Keys`.

    Raises:
        UserError: with one sentence about what does not fit.
    """
    made = config_of(config, keys)
    model = _model(base, tokenizer)
    made = _with_base(made, base, keys)
    if data is None:
        return Handed(made, None, model)
    if isinstance(data, str | Path):
        name = str(data)
        source = "files" if is_path(name) or Path(name).exists() or Path(name).suffix else "hub"
        return Handed(changed_config(made, {"data": {"source": source, "path": name}}), None, model)
    if isinstance(data, Mapping) and not _holds_parts(data):
        return Handed(changed_config(made, {"data": data}), None, model)
    settings = made.data
    if made.split.test_by is not None:
        raise ConfigError(
            f"split.test_by is {made.split.test_by!r}, but the examples were handed over in Python, where a test set "
            f"is cut off at once: write them to a file and hand over its path, or leave split.test_by out."
        )
    if not isinstance(data, Dataset):
        data = _read(made, data)
    _require_examples_of_task(made, data)
    data = take_some(data, settings.train_examples, settings.test_examples, made.draw)
    return Handed(replace(made, data=replace(settings, source=PYTHON, path=None)), data, model)


def _holds_parts(data: Mapping[str, Any]) -> bool:
    """Whether a mapping is of tables (a DatasetDict is one) and not the section [data]."""
    return (
        hasattr(data, "num_rows")
        or isinstance(data.get("train"), list | tuple)
        or hasattr(data.get("train"), "features")
    )


def _read(config: Config, table: Any) -> Dataset:
    """The examples of tables, as the config's task has them."""
    settings, seed = config.data, config.draw
    column = config.split.column if config.split.kind == "natural" else None
    if config.model.task == "generate":
        train, test = table_parts(table, settings.label, settings.test_share, seed)
        return dialogues_dataset(settings, train, test, PYTHON, column, choices=choices_column(config))
    return from_table(table, Columns(settings.text, settings.label, column), settings.test_share, seed, settings.labels)


def _require_examples_of_task(config: Config, dataset: Dataset) -> None:
    """Refuse examples that were made for the other task.

    Raises:
        ConfigError: labelled texts for language modelling, or the other way round.
    """
    texts = isinstance(dataset.train, Texts)
    if texts == (config.model.task == "generate"):
        what, other = ("labelled texts", "classify") if texts else ("examples of language modelling", "generate")
        raise ConfigError(
            f"data holds {what}, but model.task is {config.model.task!r}: set task={other!r}"
            + (", or hand over a list of rows with text, prompt and completion, or messages." if texts else ".")
        )


def _model(base: BaseModel | None, tokenizer: Any) -> LoadedModel | None:
    if base is None or isinstance(base, str | Path):
        if tokenizer is not None:
            raise ConfigError(
                "tokenizer is given without a loaded model: hand over base=MODEL with it, or leave it out."
            )
        return None
    if not is_model(base):
        raise ConfigError(
            f"base is a {type(base).__name__}; expected a folder, a name on the hub, or a loaded transformers model."
        )
    return LoadedModel(base, tokenizer if tokenizer is not None else _tokenizer_of(base))


def _tokenizer_of(model: Any) -> Any:
    from transformers import AutoTokenizer

    name = str(getattr(model, "name_or_path", "") or "")
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ConfigError(f"The tokenizer of the model {name!r} cannot be loaded: give it as tokenizer=.") from error


def _with_base(config: Config, base: BaseModel | None, keys: Mapping[str, Any]) -> Config:
    if base is None:
        return config
    if isinstance(base, str | Path):
        return changed_config(config, {"model": {"base": str(base)}})
    names = {dtype: name for name, dtype in type_of_wire.items()}
    given = "dtype" in keys.get("model", {})
    dtype = config.model.dtype if given else names.get(base.dtype, config.model.dtype)
    return changed_config(config, {"model": {"base": PYTHON, "dtype": dtype}})
