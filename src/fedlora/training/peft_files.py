# SPDX-License-Identifier: Apache-2.0
"""Adapters as PEFT directories, both ways.

PEFT computes `lora_alpha / r` a module; here one scale s holds for the whole federation. So a module of
rank r_m is written with alpha s r_m: in `lora_alpha` where r_m is the file's `r`, else in `alpha_pattern`
(a `rank_pattern` alone would load silently at the wrong scale). Patterns are anchored full names, since
PEFT matches them at the end of a name and takes the first that fits.
"""

import json
import re
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedlora.core.adapter import Adapter, Start
from fedlora.errors import ModelError
from fedlora.training.model import Base

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
_PREFIX = "base_model.model."


def write_peft(folder: Path, start: Start, scale: float, base: Base, head: Mapping[str, Tensor]) -> None:
    """Write an adapter so that stock PEFT computes the same logits on the same base.

    Args:
        folder: is made if it is not there.
        start: the adapter; modules may have different ranks, one of rank 0 is left out.
        scale: s.
        base: the model that it belongs to.
        head: the dense parts that the adapter was trained with, a frozen head too: PEFT would draw
            another one.

    Raises:
        ModelError: the model has a fold, which no PEFT adapter of its own rank can hold.
    """
    if start.fold:
        raise ModelError("A model whose base was changed by a fold cannot be written as a plain PEFT adapter.")
    adapter = start.adapter
    tensors: dict[str, Tensor] = {}
    for module, rank in adapter.ranks().items():
        if rank:
            tensors[f"{_PREFIX}{module}.lora_A.weight"] = adapter.input[module].contiguous()
            tensors[f"{_PREFIX}{module}.lora_B.weight"] = adapter.output[module].contiguous()
    for name, part in head.items():
        tensors[f"{_PREFIX}{name}"] = part.contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = peft_config(adapter.ranks(), scale, base)
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def peft_config(ranks: Mapping[str, int], scale: float, base: Base) -> dict[str, Any]:
    """The contents of `adapter_config.json`."""
    from peft import LoraConfig

    present = {module: rank for module, rank in ranks.items() if rank}
    (usual, _), *_ = Counter(present.values()).most_common(1)
    others = {f"^{re.escape(module)}$": rank for module, rank in present.items() if rank != usual}
    config = LoraConfig(
        task_type="SEQ_CLS",
        r=usual,
        lora_alpha=scale * usual,
        target_modules=list(present),
        modules_to_save=_head_modules(base),
        rank_pattern=others,
        alpha_pattern={pattern: scale * rank for pattern, rank in others.items()},
        fan_in_fan_out=bool(base.transposed & present.keys()),
        base_model_name_or_path=base.name,
        inference_mode=True,
    )
    plain = config.to_dict()
    plain["target_modules"] = list(present)
    return {key: _plain(value) for key, value in plain.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(value)
    return getattr(value, "value", value)


def _head_modules(base: Base) -> list[str]:
    """The modules that own the dense parts: the topmost that hold nothing but dense parts."""
    parts = set(base.head)
    owners: list[str] = []
    for name, module in base.model.named_modules():
        own = {f"{name}.{key}" for key, _ in module.named_parameters()}
        inside = any(name.startswith(f"{owner}.") for owner in owners)
        if name and own and own <= parts and not inside:
            owners.append(name)
    return owners


def read_peft(folder: Path, base: Base, scale: float) -> Adapter:
    """Read a LoRA adapter of this base, at the federation's scale.

    B is multiplied by (the file's scale / s) module by module, so that s B A is the file's own update.

    Raises:
        ModelError: the folder holds no such adapter, or one of other modules.
    """
    from peft import LoraConfig
    from peft.utils.other import get_pattern_key

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = LoraConfig.from_pretrained(str(folder))
        tensors = load_file(folder / WEIGHTS)
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise ModelError(
            f"adapter.start is {str(folder)!r}, but that is no LoRA adapter of PEFT ({type(error).__name__}): expected "
            f"a folder with {CONFIG} and {WEIGHTS}."
        ) from error
    inputs, outputs = {}, {}
    used: set[str] = set()
    for module, (d_out, d_in) in base.shapes.items():
        keys = (f"{_PREFIX}{module}.lora_A.weight", f"{_PREFIX}{module}.lora_B.weight")
        if not all(key in tensors for key in keys):
            inputs[module], outputs[module] = torch.zeros(0, d_in), torch.zeros(d_out, 0)
            continue
        A, B = (tensors[key].float() for key in keys)
        if A.shape[1] != d_in or B.shape[0] != d_out:
            raise ModelError(
                f"adapter.start: {module} maps {A.shape[1]} to {B.shape[0]} there, but {d_in} to {d_out} in this base."
            )
        rank = config.rank_pattern.get(get_pattern_key(config.rank_pattern, module), config.r)
        alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern, module), config.lora_alpha)
        own = alpha / rank**0.5 if config.use_rslora else alpha / rank
        inputs[module], outputs[module] = A, B * (own / scale)
        used.update(keys)
    dense = {name: tensors[f"{_PREFIX}{name}"].float() for name in base.head if f"{_PREFIX}{name}" in tensors}
    unknown = sorted(tensors.keys() - used - {f"{_PREFIX}{name}" for name in dense})
    if unknown or not used:
        what = (
            f"also changes {unknown[0].removeprefix(_PREFIX)}"
            if unknown
            else "changes none of the maps that are adapted here"
        )
        raise ModelError(f"adapter.start {what}: choose adapter.targets so that they cover all that it changes.")
    return Adapter(inputs, outputs, dense)
