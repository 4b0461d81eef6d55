# SPDX-License-Identifier: Apache-2.0
"""Loads bases from local folders and from the hub."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedlora.core.seeds import stream_seed
from fedlora.errors import FedloraError, ModelError
from fedlora.training.bases import hub
from fedlora.training.bases.model import Base, TaskType, bare_base, make_base, make_causal_base
from fedlora.training.bases.quantized import Quantization, bits_of, quantizer
from fedlora.training.encoding.readable import require_tokenizer
from fedlora.training.memory import require_room
from fedlora.training.quiet import quietly


def load_base(
    name: str,
    labels: Sequence[str],
    *,
    targets: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    dtype: torch.dtype = torch.float32,
    quantization: Quantization = "none",
    head_std: float | None = None,
    seed: int = 0,
) -> Base:
    """Load an encoder or decoder for sequence classification from a local folder or from the hub.

    Args:
        name: a folder, or a name on the hub.
        labels: label names in order.
        targets: which maps to adapt, by the end of their names; None: every linear map of the layers.
        layers: which layers; None: all.
        dtype: of the base's weights; what stands behind the layers computes in float32 or better.
        quantization: of the layers' linear maps.
        head_std: of the head's weights that are drawn, see `spread_head`; None: the model's usual one.
        seed: draws what the checkpoint lacks, above all the head.

    Raises:
        ModelError: it cannot be loaded, does not classify, or no map fits `targets`.
    """
    from transformers import AutoModelForSequenceClassification

    config, tokenizer, loading = _described(name, bits_of(quantization, dtype), "classification")
    prepared(name, config, tokenizer, labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "head"))
        how = quantizer(quantization, config, AutoModelForSequenceClassification, dtype)
        model, missing = _loaded(
            AutoModelForSequenceClassification, name, config, dtype, {**loading, **how}, "classification"
        )
    require_tokenizer(name, model, tokenizer)
    if head_std is not None:
        spread_head(model, name, missing, len(labels), head_std)
    kept: dict[str, Any] = {"targets": targets, "layers": layers, "missing": missing, "source": _source(name)}
    return make_base(model, tokenizer, Path(name).name, labels, **kept)


def spread_head(model: nn.Module, name: str, missing: Sequence[str], labels: int, std: float) -> None:
    """Give the drawn matrix that makes the logits a standard deviation.

    Args:
        model: a classifier.
        name: of the base.
        missing: names of the parameters that were drawn.
        labels: how many logits there are.
        std: of the matrix's numbers.

    Raises:
        ModelError: the head came with the checkpoint.
    """
    drawn = [model.get_parameter(key) for key in missing]
    heads = [weight for weight in drawn if weight.ndim == 2 and weight.shape[0] == labels]
    if not heads:
        raise ModelError(
            f"adapter.head_std is {std:g}, but model.base {name!r} brings a head for these {labels} labels with it, so "
            f"that none is drawn: leave adapter.head_std out."
        )
    with torch.no_grad():
        heads[-1].mul_(std / heads[-1].float().std())


def load_causal_base(
    name: str,
    *,
    targets: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    dtype: torch.dtype = torch.float32,
    quantization: Quantization = "none",
) -> Base:
    """Load a decoder for language modelling from a local folder or from the hub; arguments as of `load_base`.

    Raises:
        ModelError: it cannot be loaded, does not predict text, or no map fits `targets`.
    """
    from transformers import AutoModelForCausalLM

    purpose = "language modelling"
    config, tokenizer, loading = _described(name, bits_of(quantization, dtype), purpose)
    require_causal(name, config)
    how = quantizer(quantization, config, AutoModelForCausalLM, dtype)
    model, missing = _loaded(AutoModelForCausalLM, name, config, dtype, {**loading, **how}, purpose)
    require_tokenizer(name, model, tokenizer)
    kept: dict[str, Any] = {"targets": targets, "layers": layers, "missing": missing, "source": _source(name)}
    return make_causal_base(model, tokenizer, Path(name).name, **kept)


def describe_base(name: str, task_type: TaskType, labels: Sequence[str] = ()) -> Base:
    """A base without its weights, to read examples with: its tokenizer, and the sizes of its tables.

    Args:
        name: a folder, or a name on the hub.
        task_type: what it is for.
        labels: of a classifier.

    Raises:
        ModelError: there is no such base, or it is not fit for the task.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    causal = task_type == "CAUSAL_LM"
    config, tokenizer, _ = _described(name, 0, "language modelling" if causal else "classification")
    if causal:
        require_causal(name, config)
    else:
        prepared(name, config, tokenizer, labels)
    kind: Any = AutoModelForCausalLM if causal else AutoModelForSequenceClassification
    with torch.device("meta"):
        model = kind.from_config(config)
    require_tokenizer(name, model, tokenizer)
    return bare_base(model, tokenizer, Path(name).name, labels, task_type)


def _described(name: str, bits: int, purpose: str) -> tuple[Any, Any, Mapping[str, Any]]:
    """A base's config, its tokenizer, and how to load its weights.

    Raises:
        ModelError: there is no such base, or it does not fit into memory.
    """
    from transformers import AutoConfig, AutoTokenizer

    path = Path(name)
    if not path.exists() and (path.is_absolute() or name.startswith((".", "~"))):
        raise ModelError(
            f"model.base is {name!r}, which cannot be loaded: there is no such folder. A config's paths are seen from "
            f"its own folder; a base that has moved is named with --set model.base=FOLDER, or predict's --base."
        )
    if path.exists() and not (path / "config.json").is_file():
        raise ModelError(f"model.base is {name!r}, but that folder holds no model: it has no config.json.")
    if path.is_dir():
        require_room(path, bits)
    absent = not path.exists() and not hub.is_reachable()
    loading = {"trust_remote_code": False, "local_files_only": absent}
    try:
        config = AutoConfig.from_pretrained(name, **loading)
        return config, AutoTokenizer.from_pretrained(name, **loading), loading
    except Exception as error:  # files of others, read by code of others: damaged ones end in any of them
        raise _unloadable(name, purpose, absent, error) from error


def _loaded(  # noqa: PLR0917
    kind: Any, name: str, config: Any, dtype: torch.dtype, loading: Mapping[str, Any], purpose: str
) -> tuple[Any, Sequence[str]]:
    """The model, and the names of the parameters that the checkpoint lacks."""
    try:
        with quietly():
            model, info = kind.from_pretrained(name, config=config, dtype=dtype, output_loading_info=True, **loading)
    except FedloraError:
        raise
    except Exception as error:  # as above
        raise _unloadable(name, purpose, bool(loading["local_files_only"]), error) from error
    return model, info["missing_keys"]


def _unloadable(name: str, purpose: str, absent: bool, error: Exception) -> ModelError:
    if absent:
        return ModelError(
            f"model.base is {name!r}, which cannot be loaded for {purpose}: it is no folder here, and the hub "
            f"cannot be reached. Give a folder, go online once, or, for a first try, set model.base = "
            f'"generated" with data.source = "generated".'
        )
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ModelError(
        f"model.base is {name!r}, which cannot be loaded for {purpose}: {first} Give a folder with "
        f"config.json, weights and tokenizer (a config's paths are seen from its own folder), or a name on a hub "
        f"that can be reached."
    )


def _source(name: str) -> str:
    """From where a base can be loaded again."""
    path = Path(name)
    return str(path.absolute()) if path.is_dir() else name


def prepared(name: str, config: Any, tokenizer: Any, labels: Sequence[str]) -> None:
    """Put the names of the labels and a padding token into a transformers config, and the latter into the tokenizer.

    Raises:
        ModelError: models of this kind cannot classify, or there is no padding token.
    """
    from transformers import MODEL_FOR_MASKED_LM_MAPPING

    _require_classifier(name, config)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    if type(config) not in MODEL_FOR_MASKED_LM_MAPPING or config.pad_token_id is None:
        config.pad_token_id = _padding(name, tokenizer)


def _require_classifier(name: str, config: Any) -> None:
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING or getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"model.base is {name!r}, a {getattr(config, 'model_type', 'model of unknown kind')}, which cannot "
            f"classify texts: choose an encoder such as BERT or ModernBERT, or a decoder such as LLaMA or GPT-2."
        )


def _padding(name: str, tokenizer: Any) -> int:
    """The number of the padding token. Decoders often have none; a token that ends no text takes its place.

    A decoder's head reads the last token that is not padding, so a token that texts end on would not do.
    """
    if tokenizer.pad_token_id is None:
        last = tokenizer("a")["input_ids"][-1]
        free = [token for token in (tokenizer.unk_token, tokenizer.eos_token) if token is not None]
        free = [token for token in free if tokenizer.convert_tokens_to_ids(token) != last]
        if not free:
            raise ModelError(f"model.base {name!r} has no padding token: give its tokenizer a pad_token.")
        tokenizer.pad_token = free[0]
    return int(tokenizer.pad_token_id)


def require_causal(name: str, config: Any) -> None:
    """Refuse a base that predicts no text.

    Args:
        name: of the base.
        config: of transformers.

    Raises:
        ModelError: models of this kind cannot predict the next token.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    decoder = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) not in MODEL_FOR_MASKED_LM_MAPPING
    if not decoder or getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"model.base is {name!r}, a {getattr(config, 'model_type', 'model of unknown kind')}, which is no causal "
            f"language model and generates no text: choose a decoder such as LLaMA, Qwen or GPT-2, or set "
            f"model.task = 'classify'."
        )
