# SPDX-License-Identifier: Apache-2.0
"""Bases: pretrained models for classification or for language modelling, their linear maps and their heads.

A base is loaded once (`loading.py`) and stays: clients and rounds put their tensors under it and take them away again.
"""

import copy
import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fedlora.core.adapter import AdapterSpec, Start, additions
from fedlora.core.kinds import Kind
from fedlora.errors import ModelError
from fedlora.training.bases.maps import adapt, addition, encoder_of, find_maps, map_shape
from fedlora.training.bases.precision import raise_head
from fedlora.training.forward.current_pass import Pass, running

TaskType = Literal["SEQ_CLS", "CAUSAL_LM"]
"""A classifier, or a language model that predicts each token from those before it."""


@dataclass(eq=False)
class Base:
    """A resident model with its tokenizer. Its weights never change."""

    model: nn.Module
    tokenizer: Any
    name: str
    """In a few words, for records: of a folder, or of a hub's name, the last part."""
    labels: tuple[str, ...]
    """What a classifier's logits stand for; of a language model none."""
    head: Mapping[str, Tensor]
    """The dense parts by parameter name: what the checkpoint lacks, and what stands above the encoder. A language
    model has none: its product with the vocabulary belongs to the frozen weights."""
    shapes: Mapping[str, tuple[int, int]]
    """Of every map that is adapted, (d_out, d_in), in the model's order."""
    transposed: frozenset[str] = frozenset()
    """Which of them store their weight as (d_in, d_out)."""
    fingerprint: str = ""
    """SHA-256 of all weights but the head's."""
    head_fingerprint: str = ""
    """SHA-256 of the head's weights that came with the checkpoint; the others are drawn from the seed."""
    tokenizer_fingerprint: str = ""
    task_type: TaskType = "SEQ_CLS"
    """What it is for, as PEFT calls it."""
    source: str = ""
    """From where it can be loaded again: a folder's absolute path, or a name on the hub; empty: from nowhere."""
    _weights: dict[str, nn.Parameter] = field(default_factory=dict, repr=False)
    """The resident ones, whatever another thread has put in their place for the time of a pass."""

    def __post_init__(self) -> None:
        self._weights = dict(self.model.named_parameters())
        for name in self.shapes:
            adapt(name, self.model.get_submodule(name))

    def __repr__(self) -> str:
        what = "language model" if self.task_type == "CAUSAL_LM" else f"{len(self.labels)} labels"
        return f"Base({self.name!r}, {len(self.shapes)} maps, {what})"

    def copied_to(self, device: str) -> "Base":
        """The same base with weights of its own on a device."""
        other = copy.copy(self)
        other.model = copy.deepcopy(self.model).to(torch.device(device))  # hooks and all
        other._weights = dict(other.model.named_parameters())
        return other

    @property
    def classes(self) -> int:
        """How many logits it makes: of labels, or of the vocabulary."""
        if self.task_type == "SEQ_CLS":
            return len(self.labels)
        model: Any = self.model
        return int(model.get_output_embeddings().weight.shape[0])

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
        """The model's logits in float32 or better: of a classifier (examples, labels), of a language model (examples,
        tokens, vocabulary).

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
    """Make a base of a classifier in memory; see `loading.load_base` for the arguments.

    Args:
        missing: names of parameters that were not in the checkpoint.
        source: from where it can be loaded again, see `Base.source`.

    Raises:
        ModelError: no map fits `targets`, or a map that is to be adapted has no weights.
    """
    lacking = set(missing)
    below = {id(parameter) for parameter in encoder_of(model).parameters()}
    named = model.named_parameters()
    head = {key: parameter for key, parameter in named if id(parameter) not in below or key in lacking}
    return _base(model, tokenizer, name, targets, layers, labels=labels, head=head, missing=missing, source=source)


def make_causal_base(
    model: nn.Module,
    tokenizer: Any,
    name: str,
    *,
    targets: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    missing: Collection[str] = (),
    source: str = "",
) -> Base:
    """Make a base of a language model in memory; see `make_base` for the arguments.

    Raises:
        ModelError: as `make_base`, or the checkpoint lacks weights.
    """
    lacking = sorted(missing)
    if lacking:
        raise ModelError(
            f"model.base {name!r} has no weights for {lacking[0]}, so that it predicts no text: this checkpoint is "
            f"another model's, or an encoder's; choose a causal language model, or set model.task = 'classify'."
        )
    return _base(model, tokenizer, name, targets, layers, task_type="CAUSAL_LM", source=source)


def bare_base(model: nn.Module, tokenizer: Any, name: str, labels: Sequence[str], task_type: TaskType) -> Base:
    """A base to read examples with, of a model without weights; nothing of it can be adapted."""
    fingerprint = _tokenizer_fingerprint(tokenizer)
    return Base(model, tokenizer, name, tuple(labels), {}, {}, tokenizer_fingerprint=fingerprint, task_type=task_type)


def _base(
    model: nn.Module,
    tokenizer: Any,
    name: str,
    targets: Sequence[str] | None,
    layers: Sequence[int] | None,
    *,
    source: str,
    labels: Sequence[str] = (),
    head: Mapping[str, Tensor] | None = None,
    missing: Collection[str] = (),
    task_type: TaskType = "SEQ_CLS",
) -> Base:
    """What both kinds have in common."""
    model.eval()
    model.requires_grad_(False)
    maps, lacking, head = find_maps(model, targets, layers), set(missing), head or {}
    for map_name in maps:
        if any(key in lacking for key in (f"{map_name}.weight", f"{map_name}.bias")):
            raise ModelError(f"model.base {name!r} has no weights for {map_name}: this checkpoint is another model's.")
    fingerprint = _fingerprint({key: weight for key, weight in model.named_parameters() if key not in head})
    head_fingerprint = _fingerprint({key: weight for key, weight in head.items() if key not in lacking})
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
        task_type=task_type,
        source=source,
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
