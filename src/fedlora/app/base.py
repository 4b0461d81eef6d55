# SPDX-License-Identifier: Apache-2.0
"""The base that a config names, or that was handed over in Python, ready on its device."""

import sys
from collections.abc import Sequence
from functools import partial

import torch

from fedlora.app.config import Config
from fedlora.app.devices import require_usable
from fedlora.core.payload import type_of_wire
from fedlora.errors import ConfigError
from fedlora.training.generated import NAME as GENERATED
from fedlora.training.generated import generated_base
from fedlora.training.loaded_model import PYTHON, LoadedModel, handed_base
from fedlora.training.model import Base, load_base


def load_named_base(config: Config, labels: Sequence[str], loaded: LoadedModel | None = None) -> Base:
    """The base that [model] names, or that the caller has, on its device, with the maps of [adapter]."""
    name = config.model.base
    if name == PYTHON and loaded is None:
        raise ConfigError(
            "model.base is 'python': the model was handed over in Python, so hand it over again, or name its folder."
        )
    if name == GENERATED and loaded is None:
        name = str(generated_base(before=_announce_generated_base))
    make = partial(load_base, name) if loaded is None else partial(handed_base, loaded)
    base = make(
        labels,
        targets=config.adapter.targets,
        layers=config.adapter.layers,
        dtype=type_of_wire[config.model.dtype],
        seed=config.run.seed,
    )
    require_usable(config)
    base.model.to(torch.device(config.run.devices[0]))
    return base


def _announce_generated_base() -> None:
    print("fedlora: making the generated base, once; this takes one to three minutes.", file=sys.stderr, flush=True)
