# SPDX-License-Identifier: Apache-2.0
"""Bases: pretrained encoders for sequence classification, their linear maps and their heads.

A base is loaded once and stays: clients and rounds put their tensors under it and take them away again.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlora.core.adapter import AdapterSpec, Start
from fedlora.core.lowrank import LowRank
from fedlora.core.seeds import stream_seed
from fedlora.errors import ModelError
from fedlora.training.memory import require_room


class AdaptedMap:
    """A forward hook on one linear map: the base's own output plus s (fold + B A) x.

    Inputs and outputs are (..., d_in) and (..., d_out) for `nn.Linear` and for the transposed `Conv1D` of
    GPT-2 alike, so the hook does not depend on how the base stores its weight.
    """

    def __init__(self, module: nn.Module) -> None:
        self.A: Tensor | None = None
        self.B: Tensor | None = None
        self.fold: LowRank | Tensor | None = None
        self.scale, self.dropout = 1.0, 0.0
        module.register_forward_hook(self._add)

    def _add(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if self.A is None or self.B is None:
            return output
        x = inputs[0].to(self.A.dtype)
        dropped = functional.dropout(x, self.dropout) if self.dropout else x
        added = (dropped @ self.A.T) @ self.B.T
        if isinstance(self.fold, LowRank):
            added = added + (x @ self.fold.A.T) @ self.fold.B.T
        elif self.fold is not None:
            added = added + x @ self.fold.T
        return output + (self.scale * added).to(output.dtype)


@dataclass(eq=False)
class Base:
    """A resident model with its tokenizer. Its weights never change."""

    model: nn.Module
    tokenizer: Any
    name: str
    """As the user gave it; of a folder, its last part."""
    labels: tuple[str, ...]
    head: Mapping[str, Tensor]
    """The dense parts by parameter name: what the checkpoint lacks, and what stands above the encoder."""
    shapes: Mapping[str, tuple[int, int]]
    """Of every map that is adapted, (d_out, d_in), in the model's order."""
    transposed: frozenset[str] = frozenset()
    """Which of them store their weight as (d_in, d_out)."""
    fingerprint: str = ""
    """SHA-256 of all weights but the head's."""
    tokenizer_fingerprint: str = ""
    _maps: dict[str, AdaptedMap] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._maps = {name: AdaptedMap(self.model.get_submodule(name)) for name in self.shapes}

    def spec(self, rank: int, scale: float, **others: Any) -> AdapterSpec:
        """The adapter of this base."""
        return AdapterSpec(self.shapes, rank, scale, **others)

    def logits(self, ids: Tensor, mask: Tensor, start: Start, scale: float, dropout: float = 0.0) -> Tensor:
        """Class scores (examples, labels) in float32.

        The head goes in by value: the resident model's own is neither read nor changed where the start
        brings one.

        Args:
            ids: token ids (examples, tokens), padded.
            mask: 1 where a token is real.
            start: the adapter with its head, on the model's device; its tensors may need gradients.
            scale: s, the one number of the federation.
            dropout: probability on the adapters' inputs.
        """
        head = {name: part.to(self.head[name].dtype) for name, part in start.adapter.dense.items()}
        try:
            for name, own in self._maps.items():
                own.A, own.B = start.adapter.input[name], start.adapter.output[name]
                own.fold, own.scale, own.dropout = start.fold.get(name), scale, dropout
            inputs = {"input_ids": ids, "attention_mask": mask}
            output = torch.func.functional_call(self.model, head, args=(), kwargs=inputs)
        finally:
            for own in self._maps.values():
                own.A = own.B = own.fold = None
        logits: Tensor = output.logits
        return logits.float()


def load_base(
    name: str,
    labels: Sequence[str],
    *,
    targets: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Base:
    """Load an encoder for sequence classification from a local folder or from the hub.

    Args:
        name: a folder, or a name on the hub.
        labels: label names in order.
        targets: which maps to adapt, by the end of their names; None: every linear map of the layers.
        layers: which layers; None: all.
        dtype: of the base's weights.
        seed: draws what the checkpoint lacks, above all the head.

    Raises:
        ModelError: it cannot be loaded, is no encoder, or no map fits `targets`.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    path = Path(name)
    if path.exists() and not (path / "config.json").is_file():
        raise ModelError(f"model.base is {name!r}, but that folder holds no model: it has no config.json.")
    if path.is_dir():
        require_room(path, torch.finfo(dtype).bits // 8)
    try:
        config = AutoConfig.from_pretrained(name)
        _require_encoder(name, config)
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: index for index, label in enumerate(labels)}
        tokenizer = AutoTokenizer.from_pretrained(name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(seed, "head"))
            model, info = AutoModelForSequenceClassification.from_pretrained(
                name, config=config, dtype=dtype, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"model.base is {name!r}, which cannot be loaded as an encoder for classification: {first} Give a "
            f"folder with config.json, weights and tokenizer, or a name on a hub that can be reached."
        ) from error
    return make_base(model, tokenizer, path.name, labels, targets=targets, layers=layers, missing=info["missing_keys"])


def make_base(
    model: nn.Module,
    tokenizer: Any,
    name: str,
    labels: Sequence[str],
    *,
    targets: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    missing: Collection[str] = (),
) -> Base:
    """Make a base of a model in memory; see `load_base` for the arguments.

    Args:
        missing: names of parameters that were not in the checkpoint.

    Raises:
        ModelError: no map fits `targets`, or a map that is to be adapted has no weights.
    """
    model.eval()
    model.requires_grad_(False)
    maps = find_maps(model, targets, layers)
    below = {id(parameter) for parameter in _encoder(model).parameters()}
    lacking = set(missing)
    named = dict(model.named_parameters())
    head = {key: own for key, own in named.items() if id(own) not in below or key in lacking}
    for map_name in maps:
        if any(key in lacking for key in (f"{map_name}.weight", f"{map_name}.bias")):
            raise ModelError(f"model.base {name!r} has no weights for {map_name}: this checkpoint is another model's.")
    return Base(
        model=model,
        tokenizer=tokenizer,
        name=name,
        labels=tuple(labels),
        head={key: own.detach().clone() for key, own in head.items()},
        shapes={map_name: _shape(module) for map_name, module in maps.items()},
        transposed=frozenset(map_name for map_name, module in maps.items() if not isinstance(module, nn.Linear)),
        fingerprint=_fingerprint({key: own for key, own in named.items() if key not in head}),
        tokenizer_fingerprint=_tokenizer_fingerprint(tokenizer),
    )


def find_maps(model: nn.Module, targets: Sequence[str] | None, layers: Sequence[int] | None) -> dict[str, nn.Module]:
    """The linear maps to adapt, by full name, in the model's order.

    By default every linear map inside the repeated layers; poolers, embeddings and heads are no layers.
    A target is the end of a map's name, whole words between dots: `query`, `attention.output.dense`.

    Raises:
        ModelError: nothing fits; the sentence names some that would.
    """
    found = dict(_layer_maps(model))
    chosen = {
        name: module
        for name, (module, layer) in found.items()
        if (targets is None or any(_ends_with(name, target) for target in targets))
        and (layers is None or layer in layers)
    }
    if not chosen:
        ends = sorted({name.split(".")[-1] for name in found})
        raise ModelError(
            f"No linear map fits adapter.targets = {list(targets or [])} and adapter.layers = {layers}: the layers' "
            f"maps end in {', '.join(ends) or 'nothing known'}."
        )
    return chosen


def _layer_maps(model: nn.Module) -> Iterator[tuple[str, tuple[nn.Module, int]]]:
    """Every linear map in a repeated layer, with the layer's number."""
    from transformers.pytorch_utils import Conv1D

    encoder = _encoder(model)
    inside: set[int] = set()
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or id(module) in inside:
            continue
        if not any(module is own for own in encoder.modules()):
            continue
        inside.update(id(own) for own in module.modules())
        for number, layer in enumerate(module):
            for inner, part in layer.named_modules():
                if isinstance(part, nn.Linear | Conv1D):
                    yield ".".join(filter(None, (name, str(number), inner))), (part, number)


def _encoder(model: nn.Module) -> nn.Module:
    encoder = getattr(model, "base_model", model)
    return encoder if isinstance(encoder, nn.Module) else model


def _ends_with(name: str, target: str) -> bool:
    own, end = name.split("."), target.split(".")
    return own[-len(end) :] == end


def _shape(module: nn.Module) -> tuple[int, int]:
    rows, columns = module.get_parameter("weight").shape
    return (rows, columns) if isinstance(module, nn.Linear) else (columns, rows)


def _require_encoder(name: str, config: Any) -> None:
    from transformers import MODEL_FOR_MASKED_LM_MAPPING

    if type(config) not in MODEL_FOR_MASKED_LM_MAPPING or getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"model.base is {name!r}, a {getattr(config, 'model_type', 'model of unknown kind')}, which is no encoder: "
            f"choose one such as BERT, RoBERTa, DistilBERT, ALBERT, ELECTRA or ModernBERT."
        )


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
