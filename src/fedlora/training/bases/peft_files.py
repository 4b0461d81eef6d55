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
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from fedlora.core.adapter import Adapter, AdapterSpec, Start
from fedlora.core.kinds import Kind
from fedlora.core.lowrank import LowRank, stack
from fedlora.errors import ModelError
from fedlora.training.bases.model import Base

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
_PREFIX = "base_model.model."


def write_peft(folder: Path, start: Start, spec: AdapterSpec, base: Base, head: Mapping[str, Tensor]) -> None:
    """Write an adapter so that stock PEFT computes the same logits on the same base.

    Args:
        folder: is made if it is not there.
        start: the adapter; LoRA modules may have different ranks, one of rank 0 is left out.
        spec: what the adapter is.
        base: the model that it belongs to.
        head: the dense parts that the adapter was trained with, a frozen head too: PEFT would draw
            another one.

    A merged update of pairs is written as slots before the adapter's slots, so that nothing is lost.

    Raises:
        ModelError: the model has a dense part, which no adapter can hold: see `fits_peft`.
    """
    if not fits_peft(start, spec):
        raise ModelError("A model with a dense change of its weights cannot be written as a PEFT adapter.")
    adapter = unfolded(start)
    if spec.kind == "vera":
        tensors, config = _vera_tensors(adapter, spec), vera_config(spec, base)
    else:
        tensors, config = _lora_tensors(adapter), peft_config(adapter.ranks(), spec.scale, base)
    for name, part in head.items():
        tensors[f"{_PREFIX}{name}"] = part.contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).write_bytes(save(tensors, metadata={"format": "pt"}))  # `save_file` makes it its owner's alone
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def fits_peft(start: Start, spec: AdapterSpec) -> bool:
    """Whether an adapter can hold all that a model adds to its base; else it is a whole model."""
    return spec.kind != "dense" and all(isinstance(update, LowRank) for update in start.merged.values())


def unfolded(start: Start) -> Adapter:
    """The adapter with its merged update of pairs as further slots in front; its slots that add nothing go."""
    adapter = start.adapter
    inputs, outputs = dict(adapter.input), dict(adapter.output)
    for module, update in start.merged.items():
        if isinstance(update, LowRank):
            terms = [(1.0, update)] + ([(1.0, adapter.pair(module))] if bool(outputs[module].any()) else [])
            both = stack(terms)
            inputs[module], outputs[module] = both.A, both.B
    return replace(adapter, input=inputs, output=outputs)


def _lora_tensors(adapter: Adapter) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for module, rank in adapter.ranks().items():
        if rank:
            tensors[f"{_PREFIX}{module}.lora_A.weight"] = adapter.input[module].contiguous()
            tensors[f"{_PREFIX}{module}.lora_B.weight"] = adapter.output[module].contiguous()
    return tensors


def _vera_tensors(adapter: Adapter, spec: AdapterSpec) -> dict[str, Tensor]:
    """VeRA has no alpha: the scale goes into b."""
    if spec.projection is None:
        raise ModelError("A VeRA adapter cannot be written without its federation's frozen pair.")
    tensors = {"base_model.vera_A": spec.projection.A.contiguous(), "base_model.vera_B": spec.projection.B.contiguous()}
    for module in spec.shapes:
        tensors[f"{_PREFIX}{module}.vera_lambda_d"] = adapter.input[module].contiguous()
        tensors[f"{_PREFIX}{module}.vera_lambda_b"] = (spec.scale * adapter.output[module]).contiguous()
    return tensors


def vera_config(spec: AdapterSpec, base: Base) -> dict[str, Any]:
    """The contents of `adapter_config.json` for VeRA; the frozen pair is saved, not drawn again."""
    from peft import VeraConfig

    config = VeraConfig(
        task_type=base.task_type,
        r=spec.rank,
        target_modules=list(spec.shapes),
        modules_to_save=_head_modules(base) or None,
        save_projection=True,
        fan_in_fan_out=bool(base.transposed),
        base_model_name_or_path=base.source,
        inference_mode=True,
    )
    return {key: _plain(value) for key, value in {**config.to_dict(), "target_modules": list(spec.shapes)}.items()}


def peft_config(ranks: Mapping[str, int], scale: float, base: Base) -> dict[str, Any]:
    """The contents of `adapter_config.json` for LoRA."""
    from peft import LoraConfig

    present = {module: rank for module, rank in ranks.items() if rank}
    (usual, _), *_ = Counter(present.values()).most_common(1)
    others = {f"^{re.escape(module)}$": rank for module, rank in present.items() if rank != usual}
    config = LoraConfig(
        task_type=base.task_type,
        r=usual,
        lora_alpha=scale * usual,
        target_modules=list(present),
        modules_to_save=_head_modules(base) or None,
        rank_pattern=others,
        alpha_pattern={pattern: scale * rank for pattern, rank in others.items()},
        fan_in_fan_out=bool(base.transposed & present.keys()),
        base_model_name_or_path=base.source,
        inference_mode=True,
    )
    return {key: _plain(value) for key, value in {**config.to_dict(), "target_modules": list(present)}.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(value)
    return getattr(value, "value", value)


def _head_modules(base: Base) -> list[str]:
    """The modules that own the dense parts: the topmost that hold nothing but dense parts."""
    parts = set(base.head)
    owners: list[str] = []
    for name, module in base.model.named_modules():
        names = {f"{name}.{key}" for key, _ in module.named_parameters()}
        inside = any(name.startswith(f"{owner}.") for owner in owners)
        if name and names and names <= parts and not inside:
            owners.append(name)
    return owners


def read_peft(folder: Path, base: Base, spec: AdapterSpec) -> Adapter:
    """Read an adapter of this base as the spec describes it.

    A LoRA adapter comes at the federation's scale: B is multiplied by (the file's scale / s) module by module,
    so that s B A is the file's update. A map that the file does not adapt gets no slots.

    Raises:
        ModelError: the folder holds no such adapter, or one of other modules.
    """
    config, tensors = _load(folder, spec.kind)
    try:
        adapter = (_read_vera if spec.kind == "vera" else _read_lora)(config, tensors, spec)
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError, IndexError, re.error) as error:
        raise _no_adapter(folder, spec.kind, error) from error
    for name, part in base.head.items():
        shape = tuple(tensors[f"{_PREFIX}{name}"].shape) if f"{_PREFIX}{name}" in tensors else tuple(part.shape)
        if shape != tuple(part.shape):
            raise ModelError(
                f"The adapter in {folder} has {name} of shape {shape}, but it is {tuple(part.shape)} here: it was "
                f"trained for other labels, or is damaged."
            )
    dense = {name: tensors.pop(f"{_PREFIX}{name}").float() for name in base.head if f"{_PREFIX}{name}" in tensors}
    if tensors or not any(adapter.ranks().values()):
        first = min(tensors, default="").removeprefix(_PREFIX)
        what = f"also changes {first}" if first else "changes none of the maps that are adapted here"
        raise ModelError(f"adapter.start {what}: choose adapter.targets so that they cover all that it changes.")
    return adapter.with_dense(dense)


def read_projection(folder: Path) -> LowRank | None:
    """VeRA's frozen pair as an adapter's file has it; None of another adapter.

    Raises:
        ModelError: the file cannot be read.
    """
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{folder / WEIGHTS} cannot be read ({error}): put the file back from a copy.") from error
    if not {"base_model.vera_A", "base_model.vera_B"} <= tensors.keys():
        return None
    return LowRank(tensors["base_model.vera_A"], tensors["base_model.vera_B"])


def _load(folder: Path, kind: Kind) -> tuple[Any, dict[str, Tensor]]:
    from peft import LoraConfig, VeraConfig

    wanted = VeraConfig if kind == "vera" else LoraConfig
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = wanted.from_pretrained(str(folder))
        if not isinstance(config, wanted):
            raise TypeError
        return config, load_file(folder / WEIGHTS)
    except Exception as error:  # a file of others, read by code of others: a damaged one ends in any of them
        raise _no_adapter(folder, kind, error) from error


def _no_adapter(folder: Path, kind: Kind, error: Exception) -> ModelError:
    return ModelError(
        f"adapter.start is {str(folder)!r}, but that is no {kind} adapter of PEFT ({type(error).__name__}): "
        f"expected a folder with {CONFIG} and {WEIGHTS}."
    )


def _read_lora(config: Any, tensors: dict[str, Tensor], spec: AdapterSpec) -> Adapter:
    """Takes out of `tensors` what it reads."""
    from peft.utils.other import get_pattern_key

    inputs, outputs = {}, {}
    for module, (d_out, d_in) in spec.shapes.items():
        keys = (f"{_PREFIX}{module}.lora_A.weight", f"{_PREFIX}{module}.lora_B.weight")
        if not all(key in tensors for key in keys):
            inputs[module], outputs[module] = torch.zeros(0, d_in), torch.zeros(d_out, 0)
            continue
        A, B = (tensors.pop(key).float() for key in keys)
        if A.ndim != 2 or B.ndim != 2 or A.shape[0] != B.shape[1]:
            raise ModelError(f"adapter.start: the two factors of {module} do not fit together; the file is damaged.")
        if A.shape[1] != d_in or B.shape[0] != d_out:
            raise ModelError(
                f"adapter.start: {module} maps {A.shape[1]} to {B.shape[0]} there, but {d_in} to {d_out} in this base."
            )
        rank = config.rank_pattern.get(get_pattern_key(config.rank_pattern, module), config.r)
        alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern, module), config.lora_alpha)
        scale = alpha / rank**0.5 if config.use_rslora else alpha / rank
        inputs[module], outputs[module] = A, B * (scale / spec.scale)
    return Adapter(inputs, outputs)


def _read_vera(config: Any, tensors: dict[str, Tensor], spec: AdapterSpec) -> Adapter:
    """Takes out of `tensors` what it reads, the frozen pair too; that must equal the federation's."""
    pair = (tensors.pop("base_model.vera_A", None), tensors.pop("base_model.vera_B", None))
    projection = spec.projection
    if (
        projection is None
        or pair[0] is None
        or pair[1] is None
        or not (pair[0].equal(projection.A) and pair[1].equal(projection.B))
    ):
        raise ModelError("adapter.start is a VeRA adapter with another frozen pair than this federation's.")
    keys = {module: [f"{_PREFIX}{module}.vera_lambda_{side}" for side in "db"] for module in spec.shapes}
    missing = [module for module, names in keys.items() if not all(key in tensors for key in names)]
    if missing:
        raise ModelError(f"adapter.start does not adapt {missing[0]}: choose adapter.targets as they were.")
    inputs = {module: tensors.pop(names[0]).float() for module, names in keys.items()}
    outputs = {module: tensors.pop(names[1]).float() / spec.scale for module, names in keys.items()}
    return Adapter(inputs, outputs, kind="vera")
