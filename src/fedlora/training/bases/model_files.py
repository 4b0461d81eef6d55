# SPDX-License-Identifier: Apache-2.0
"""Whole model folders of transformers, and the tokenizer that lies beside a model or an adapter."""

import copy
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fedlora.core.adapter import AdapterSpec, Start, effective
from fedlora.training.bases.model import Base
from fedlora.training.bases.quantized import dequantized
from fedlora.training.quiet import quietly


def write_model(folder: Path, start: Start, spec: AdapterSpec, base: Base, head: Mapping[str, Tensor]) -> None:
    """Write a whole model folder: the base's weights with all that was added to them, its head, the tokenizer.

    Args:
        folder: is made if it is not there.
        start: the adapter and the merged updates that are added to the weights.
        spec: what the adapter is.
        base: the model that it belongs to.
        head: the dense parts that the adapter was trained with.
    """
    model: Any = dequantized(base.model)
    added = _added(start, spec, base, model) | {name: part.contiguous() for name, part in head.items()}
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    with quietly():
        model.save_pretrained(folder, state_dict=weights | _with_tied(added, model))
    write_tokenizer(folder, base.tokenizer)
    mode = (folder / "config.json").stat().st_mode  # as this user's new files are; weights would be their owner's alone
    for path in folder.glob("*.safetensors"):
        path.chmod(mode)


def _added(start: Start, spec: AdapterSpec, base: Base, model: nn.Module) -> dict[str, Tensor]:
    """The weights that differ from the base's (those of `model`), by parameter name."""
    if spec.kind == "dense":
        return {name: tensor.contiguous() for name, tensor in base.moved(start, spec).items()}
    found = {}
    for module, change in effective(start, spec).items():
        weight = model.get_parameter(f"{module}.weight").detach()
        stored = change.T if module in base.transposed else change
        found[f"{module}.weight"] = (weight.double() + stored).to(weight.dtype)
    return found


def _with_tied(weights: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """The same, with each weight that is tied to another (an embedding and the product with the vocabulary) under
    both names: in a file they must be equal, or they would be loaded as two."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {other: tensor for name, tensor in weights.items() for other in names[id(model.get_parameter(name))]}


def write_tokenizer(folder: Path, tokenizer: Any) -> list[Path]:
    """Write a tokenizer with its chat template; returns the files.

    What it was last asked to cut or to fill up would be saved with it, so that a copy is written which does neither.
    """
    fresh = copy.deepcopy(tokenizer)
    backend = getattr(fresh, "backend_tokenizer", None)
    if backend is not None:
        backend.no_truncation()
        backend.no_padding()
    return [Path(name) for name in fresh.save_pretrained(folder) if Path(name).is_file()]


def same_tokenizer(folder: Path, files: list[Path]) -> None:
    """Put a tokenizer's files into another folder; both share the space on the disk where the system can."""
    for file in files:
        try:
            os.link(file, folder / file.name)
        except OSError:
            shutil.copyfile(file, folder / file.name)
