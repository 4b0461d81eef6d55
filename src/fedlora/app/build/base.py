# SPDX-License-Identifier: Apache-2.0
"""The base that a config names, or that was handed over in Python, ready on its device."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fedlora.app.build.clients import on_cpu
from fedlora.app.config.devices import require_usable
from fedlora.app.config.schema import Config
from fedlora.core.payload import type_of_wire
from fedlora.errors import ConfigError
from fedlora.training.bases.loaded_model import PYTHON, LoadedModel, handed_base, handed_causal_base
from fedlora.training.bases.loading import load_base, load_causal_base
from fedlora.training.bases.model import Base
from fedlora.training.bases.precision import raise_norms
from fedlora.training.encoding.start_tokenizer import with_template_of
from fedlora.training.generated.decoder import generated_decoder
from fedlora.training.generated.encoder import generated_base
from fedlora.training.generated.kept import NAME as GENERATED


def load_named_base(config: Config, labels: Sequence[str], loaded: LoadedModel | None = None) -> Base:
    """The base that [model] names, or that the caller has, on its device, with the maps of [adapter]."""
    name, dtype = config.model.base, config.model.dtype
    if dtype == "auto":
        raise ConfigError(
            "model.dtype is 'auto', which is answered where one machine runs everything; all members of a deployment "
            "need the same: set it to float32 or bfloat16."
        )
    if name == PYTHON and loaded is None:
        raise ConfigError(
            "model.base is 'python': the model was handed over in Python, so hand it over again, or name its folder."
        )
    adapter, place = config.adapter, place_of_base(config)
    targets = None if adapter.targets == "all-linear" else adapter.targets
    common: dict[str, Any] = {"targets": targets, "layers": adapter.layers, "dtype": type_of_wire[dtype]}
    if loaded is None:
        common["quantization"] = config.model.quantization
    if config.model.task == "generate":
        base = load_causal_base(place, **common) if loaded is None else handed_causal_base(loaded, **common)
        if adapter.start is not None:
            base = with_template_of(base, Path(adapter.start))
    else:
        drawn = common | {"head_std": adapter.head_std, "seed": config.run.seed}
        base = load_base(place, labels, **drawn) if loaded is None else handed_base(loaded, labels, **drawn)
    require_usable(config)
    if next(base.model.parameters()).device != torch.device(config.run.devices[0]):
        base.model.to(torch.device(config.run.devices[0]))
    if on_cpu(config):
        raise_norms(base.model)
    return base


def place_of_base(config: Config) -> str:
    """The folder or hub name of the base that [model] names; the generated one is made where it is not there yet."""
    if config.model.base != GENERATED:
        return config.model.base
    make = generated_decoder if config.model.task == "generate" else generated_base
    return str(make(before=_announce_generated_base))


def _announce_generated_base() -> None:
    print("fedlora: making the generated base, once; this takes one to three minutes.", file=sys.stderr, flush=True)
