# SPDX-License-Identifier: Apache-2.0
"""Bases: pretrained encoders and decoders for sequence classification, their linear maps and their heads.

A base is loaded once and stays: clients and rounds put their tensors under it and take them away again.
"""

import copy
import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fedlora.core.adapter import AdapterSpec, Start, additions
from fedlora.core.kinds import Kind
from fedlora.core.seeds import stream_seed
from fedlora.errors import FedloraError, ModelError
from fedlora.training import hub
from fedlora.training.current_pass import Pass, running
from fedlora.training.maps import adapt, addition, encoder_of, find_maps, map_shape
from fedlora.training.memory import require_room
from fedlora.training.precision import raise_head
from fedlora.training.quiet import quietly
from fedlora.training.readable import require_tokenizer


@dataclass(eq=False)
class Base:
    """A resident model with its tokenizer. Its weights never change."""

    model: nn.Module
    tokenizer: Any
    name: str
    """In a few words, for records: of a folder, or of a hub's name, the last part."""
    labels: tuple[str, ...]
    head: Mapping[str, Tensor]
    """The dense parts by parameter name: what the checkpoint lacks, and what stands above the encoder."""
    shapes: Mapping[str, tuple[int, int]]
    """Of every map that is adapted, (d_out, d_in), in the model's order."""
    transposed: frozenset[str] = frozenset()
    """Which of them store their weight as (d_in, d_out)."""
    fingerprint: str = ""
    """SHA-256 of all weights but the head's."""
    head_fingerprint: str = ""
    """SHA-256 of the head's weights that came with the checkpoint; the others are drawn from the seed."""
    tokenizer_fingerprint: str = ""
    source: str = ""
    """From where it can be loaded again: a folder's absolute path, or a name on the hub; empty: from nowhere."""
    _weights: dict[str, nn.Parameter] = field(default_factory=dict, repr=False)
    """The resident ones, whatever another thread has put in their place for the time of a pass."""

    def __post_init__(self) -> None:
        self._weights = dict(self.model.named_parameters())
        for name in self.shapes:
            adapt(name, self.model.get_submodule(name))

    def __repr__(self) -> str:
        return f"Base({self.name!r}, {len(self.shapes)} maps, {len(self.labels)} labels)"

    def copied_to(self, device: str) -> "Base":
        """The same base with weights of its own on a device."""
        other = copy.copy(self)
        other.model = copy.deepcopy(self.model).to(torch.device(device))  # hooks and all
        other._weights = dict(other.model.named_parameters())
        return other

    @property
    def padding(self) -> int:
        """The number of the padding token."""
        return int(self.tokenizer.pad_token_id or 0)

    def spec(self, rank: int, scale: float, kind: Kind = "lora", **others: Any) -> AdapterSpec:
        """The adapter of this base; a dense one has every parameter but the head's."""
        if kind == "dense":
            shapes = {name: tuple(p.shape) for name, p in self.model.named_parameters() if name not in self.head}
            return AdapterSpec(shapes, rank, scale, kind, **others)
        return AdapterSpec(self.shapes, rank, scale, kind, **others)

    def logits(self, ids: Tensor, mask: Tensor, start: Start, spec: AdapterSpec, dropout: float = 0.0) -> Tensor:
        """The model's logits in float32, of a classifier (examples, labels).

        The head, and a dense adapter, go in by value: the resident model's weights are never changed.

        Args:
            ids: token ids (examples, tokens), padded.
            mask: 1 where a token is real.
            start: the adapter with its head, on the model's device; its tensors may need gradients.
            spec: what the adapter is.
            dropout: probability on the adapters' inputs.
        """
        values, now = self.head_values(start), Pass()
        if spec.kind == "dense":
            values |= self.moved(start, spec)
        else:
            now = Pass({name: addition(parts, spec.scale, dropout) for name, parts in additions(start, spec).items()})
        with running(now):
            inputs = {"input_ids": ids, "attention_mask": mask}
            output = torch.func.functional_call(self.model, values, args=(), kwargs=inputs)
        logits: Tensor = output.logits
        return at_least_single(logits)

    def head_values(self, start: Start) -> dict[str, Tensor]:
        """The adapter's dense parts in the types of the base's."""
        return {name: part.to(self.head[name].dtype) for name, part in start.adapter.dense.items()}

    def moved(self, start: Start, spec: AdapterSpec) -> dict[str, Tensor]:
        """The base's parameters with a dense adapter added: W0 + s D."""
        weights, change = self._weights, start.adapter.output
        return {name: weights[name] + (spec.scale * by).to(weights[name].dtype) for name, by in change.items()}


def at_least_single(tensor: Tensor) -> Tensor:
    """Scores and losses are never computed in less than float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def load_base(
    name: str,
    labels: Sequence[str],
    *,
    targets: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Base:
    """Load an encoder or decoder for sequence classification from a local folder or from the hub.

    Args:
        name: a folder, or a name on the hub.
        labels: label names in order.
        targets: which maps to adapt, by the end of their names; None: every linear map of the layers.
        layers: which layers; None: all.
        dtype: of the base's weights; what stands behind the layers computes in float32 or better.
        seed: draws what the checkpoint lacks, above all the head.

    Raises:
        ModelError: it cannot be loaded, does not classify, or no map fits `targets`.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    path = Path(name)
    if not path.exists() and (path.is_absolute() or name.startswith((".", "~"))):
        raise ModelError(
            f"model.base is {name!r}, which cannot be loaded: there is no such folder. A config's paths are seen from "
            f"its own folder; a base that has moved is named with --set model.base=FOLDER, or predict's --base."
        )
    if path.exists() and not (path / "config.json").is_file():
        raise ModelError(f"model.base is {name!r}, but that folder holds no model: it has no config.json.")
    if path.is_dir():
        require_room(path, torch.finfo(dtype).bits // 8)
    absent = not path.exists() and not hub.is_reachable()
    loading: dict[str, Any] = {"trust_remote_code": False, "local_files_only": absent}
    try:
        config = AutoConfig.from_pretrained(name, **loading)
        tokenizer = AutoTokenizer.from_pretrained(name, **loading)
        prepared(name, config, tokenizer, labels)
        with quietly(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(seed, "head"))
            model, info = AutoModelForSequenceClassification.from_pretrained(
                name, config=config, dtype=dtype, output_loading_info=True, **loading
            )
    except FedloraError:
        raise
    except Exception as error:  # files of others, read by code of others: damaged ones end in any of them
        if absent:
            raise ModelError(
                f"model.base is {name!r}, which cannot be loaded for classification: it is no folder here, and the hub "
                f"cannot be reached. Give a folder, go online once, or, for a first try, set model.base = "
                f'"generated" with data.source = "generated".'
            ) from error
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"model.base is {name!r}, which cannot be loaded for classification: {first} Give a folder with "
            f"config.json, weights and tokenizer (a config's paths are seen from its own folder), or a name on a hub "
            f"that can be reached."
        ) from error
    require_tokenizer(name, model, tokenizer)
    source = str(path.absolute()) if path.is_dir() else name
    missing = info["missing_keys"]
    return make_base(
        model, tokenizer, path.name, labels, targets=targets, layers=layers, missing=missing, source=source
    )


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


def make_base(
    model: nn.Module,
    tokenizer: Any,
    name: str,
    labels: Sequence[str],
    *,
    targets: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    missing: Collection[str] = (),
    source: str = "",
) -> Base:
    """Make a base of a model in memory; see `load_base` for the arguments.

    Args:
        missing: names of parameters that were not in the checkpoint.
        source: from where it can be loaded again, see `Base.source`.

    Raises:
        ModelError: no map fits `targets`, or a map that is to be adapted has no weights.
    """
    model.eval()
    model.requires_grad_(False)
    maps = find_maps(model, targets, layers)
    below = {id(parameter) for parameter in encoder_of(model).parameters()}
    lacking = set(missing)
    named = dict(model.named_parameters())
    head = {key: parameter for key, parameter in named.items() if id(parameter) not in below or key in lacking}
    for map_name in maps:
        if any(key in lacking for key in (f"{map_name}.weight", f"{map_name}.bias")):
            raise ModelError(f"model.base {name!r} has no weights for {map_name}: this checkpoint is another model's.")
    fingerprint = _fingerprint({key: parameter for key, parameter in named.items() if key not in head})
    head_fingerprint = _fingerprint({key: parameter for key, parameter in head.items() if key not in lacking})
    raise_head(model)  # behind the fingerprints, which tell of the checkpoint
    return Base(
        model=model,
        tokenizer=tokenizer,
        name=name,
        labels=tuple(labels),
        head={key: tensor.detach().clone() for key, tensor in head.items()},
        shapes={map_name: map_shape(module) for map_name, module in maps.items()},
        transposed=frozenset(map_name for map_name, module in maps.items() if not isinstance(module, nn.Linear)),
        fingerprint=fingerprint,
        head_fingerprint=head_fingerprint,
        tokenizer_fingerprint=_tokenizer_fingerprint(tokenizer),
        source=source,
    )


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


def _fingerprint(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous().cpu()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _tokenizer_fingerprint(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(text.encode()).hexdigest()
