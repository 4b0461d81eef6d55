# SPDX-License-Identifier: Apache-2.0
"""What is handed over in Python in place of a name: a loaded transformers model, a table of the datasets library."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from fedlora.core.seeds import stream_seed
from fedlora.errors import DataError, ModelError
from fedlora.training.bases.loading import prepared, require_causal, spread_head
from fedlora.training.bases.model import Base, make_base, make_causal_base
from fedlora.training.bases.quantized import is_quantized
from fedlora.training.data.examples import Dataset
from fedlora.training.data.labelled import Columns, cut_off_test, from_rows, named_rows
from fedlora.training.data.tables import Rows
from fedlora.training.quiet import quietly

PYTHON: Final = "python"
"""What `data.source` and `model.base` are called where they were handed over."""


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A transformers model in memory, with its tokenizer."""

    model: Any
    tokenizer: Any

    def __repr__(self) -> str:
        return f"LoadedModel({type(self.model).__name__})"


def require_whole_weights(model: Any) -> None:
    """Refuse a model in 4 or 8 bits, of which no copy can be made.

    Raises:
        ModelError: with what to do.
    """
    if is_quantized(model):
        raise ModelError(
            "The model that was handed over keeps its weights in 4 or 8 bits: hand over its folder or name, and set "
            "model.quantization, so that it is loaded so."
        )


def is_model(value: object) -> bool:
    """Whether this is a model of transformers."""
    from transformers import PreTrainedModel

    return isinstance(value, PreTrainedModel)


def handed_base(
    loaded: LoadedModel,
    labels: Sequence[str],
    *,
    targets: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    dtype: torch.dtype = torch.float32,
    head_std: float | None = None,
    seed: int = 0,
) -> Base:
    """A base of a loaded model. The caller's model and tokenizer stay as they are.

    Args:
        loaded: an encoder or decoder, with or without a head for classification.
        labels: label names in order.
        targets: which maps to adapt, see `load_base`.
        layers: which layers; None: all.
        dtype: of the base's weights.
        head_std: see `load_base`.
        seed: draws what the model lacks, above all the head.

    Raises:
        ModelError: it cannot classify, or no map fits `targets`.
    """
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    require_whole_weights(loaded.model)
    given = str(getattr(loaded.model, "name_or_path", "") or "")
    name = Path(given).name or type(loaded.model).__name__
    config, tokenizer = copy.deepcopy(loaded.model.config), copy.deepcopy(loaded.tokenizer)
    prepared(name, config, tokenizer, labels)
    try:
        with quietly(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(seed, "head"))
            weights = {key: tensor.detach() for key, tensor in loaded.model.state_dict().items()}
            model, info = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)].from_pretrained(
                None, config=config, state_dict=weights, dtype=dtype, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"The model {name!r} that was handed over does not fit {len(labels)} labels "
            f"({str(error).splitlines()[0]}): load it with num_labels={len(labels)}, or hand over its encoder alone."
        ) from error
    missing, source = info["missing_keys"], _source(given)
    if head_std is not None:
        spread_head(model, name, missing, len(labels), head_std)
    return make_base(model, tokenizer, name, labels, targets=targets, layers=layers, missing=missing, source=source)


def handed_causal_base(
    loaded: LoadedModel,
    *,
    targets: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Base:
    """A base of a loaded language model; arguments as of `handed_base`.

    Raises:
        ModelError: it predicts no text, or no map fits `targets`.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    require_whole_weights(loaded.model)
    given = str(getattr(loaded.model, "name_or_path", "") or "")
    name = Path(given).name or type(loaded.model).__name__
    config, tokenizer = copy.deepcopy(loaded.model.config), copy.deepcopy(loaded.tokenizer)
    require_causal(name, config)
    if not isinstance(loaded.model, MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]):
        raise ModelError(
            f"The model {name!r} that was handed over is a {type(loaded.model).__name__}, which has no product with "
            f"the vocabulary: load it with AutoModelForCausalLM."
        )
    model = copy.deepcopy(loaded.model).to(dtype)
    return make_causal_base(model, tokenizer, name, targets=targets, layers=layers, source=_source(given))


def _source(given: str) -> str:
    """From where a model can be loaded again, by what transformers calls it."""
    return str(Path(given).absolute()) if given and Path(given).is_dir() else given


def from_table(
    table: Any, columns: Columns, test_share: float = 0.2, seed: int = 0, labels: Sequence[str] | None = None
) -> Dataset:
    """Examples from a `datasets.Dataset`, or from a `DatasetDict` with a train and a test part.

    Args:
        table: the examples; where there is one table, it is cut at random into training and test examples.
        columns: what its columns are called.
        test_share: of a single table.
        seed: of that cut.
        labels: the label names in order; by default those of the training set, sorted.

    Raises:
        DataError: something else was handed over, a part is missing, or what `from_rows` refuses.
    """
    train, test = table_parts(table, columns.label, test_share, seed)
    return from_rows(train, test, columns, PYTHON, labels)


def table_parts(table: Any, label: str, test_share: float, seed: int) -> tuple[Rows, Rows]:
    """The training and test rows of what was handed over.

    Args:
        table: a `datasets.Dataset`, a list of rows (dicts) or of texts; or a mapping of such with train and test.
        label: the column whose numbers are names, where the table knows these.
        test_share: of a single table.
        seed: of that cut.

    Raises:
        DataError: something else was handed over, or a part is missing.
    """
    if isinstance(table, Mapping):
        for part in ("train", "test"):
            if part not in table:
                raise DataError(f"The data have no part {part!r}, only {', '.join(map(str, table))}.")
        return _rows_of(table["train"], label), _rows_of(table["test"], label)
    rows = _rows_of(table, label)
    if not rows:
        raise DataError("data has no rows: hand over at least some examples.")
    return cut_off_test(rows, test_share, seed)


def _rows_of(table: Any, label: str) -> Rows:
    if hasattr(table, "features") and hasattr(table, "to_list"):
        return named_rows(table, label)
    if isinstance(table, list | tuple) and all(isinstance(row, Mapping) for row in table):
        return table
    if isinstance(table, list | tuple) and all(isinstance(row, str) for row in table):
        return [{"text": text} for text in table]
    raise DataError(
        f"data is a {type(table).__name__}; expected the path of a file, a name on the hub, "
        f"fedlora.from_lists(...), a datasets.Dataset, a list of rows (dicts), or a DatasetDict with train and test."
    )
