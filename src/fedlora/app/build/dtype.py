# SPDX-License-Identifier: Apache-2.0
"""The answer to `model.dtype = "auto"`: asked once, before anything is loaded, and kept in the config of a run."""

import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from fedlora.app.build.base import place_of_base
from fedlora.app.config.schema import Config
from fedlora.federation.same_run import CONFIG
from fedlora.training.bases.loaded_model import LoadedModel
from fedlora.training.bases.maps import find_maps, map_shape
from fedlora.training.bases.probe import Shape, measured, shapes_of

Dtype = Literal["float32", "bfloat16"]
_NAMED: Mapping[object, Dtype] = {"float32": "float32", "bfloat16": "bfloat16"}
_RUNS = (CONFIG, f"*/*/{CONFIG}", f"*/*/*/{CONFIG}")
"""Where a folder has configs of runs: its own, those of a comparison, those of its trials."""


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def with_dtype(
    config: Config,
    folder: Path | None = None,
    loaded: LoadedModel | None = None,
    say: Callable[[str], object] = _say,
) -> Config:
    """The config with a type where it said auto; any other as it is.

    What a run in the folder was told counts, so that it can go on, and so do the runs of a comparison: they all have
    one type. Else both types are timed on the run's device.

    Args:
        config: of a run, or of all runs of a comparison.
        folder: of that run or comparison; None: it is kept nowhere.
        loaded: the caller's model, in place of model.base.
        say: is told the answer in a line.
    """
    if config.model.dtype != "auto":
        return config
    dtype = _told_before(folder) if folder is not None else None
    if dtype is not None:
        say(f"fedlora: model.dtype is auto: {dtype}, as the run in {folder} has it.")
    else:
        dtype = _asked(config, loaded, say)
    return replace(config, model=replace(config.model, dtype=dtype))


def _asked(config: Config, loaded: LoadedModel | None, say: Callable[[str], object]) -> Dtype:
    """The faster type here."""
    try:
        shapes = _shapes(config, loaded)
        found = measured(shapes, config.run.devices[0])
    except Exception:  # no such base, no such device: whoever loads the base says what is wrong with it
        return "float32"
    say(
        f"fedlora: model.dtype is auto: {found.dtype}, since bfloat16 has {found.speedup:.2g} times the speed of "
        f"float32 here; the run's config says so."
    )
    return found.dtype


def _told_before(folder: Path) -> Dtype | None:
    """The type in the first config of a run below a folder."""
    for path in (path for pattern in _RUNS for path in sorted(folder.glob(pattern))):
        try:
            dtype = tomllib.loads(path.read_text(encoding="utf-8")).get("model", {}).get("dtype")
        except (OSError, ValueError, AttributeError):  # whoever opens the run says what is wrong with it
            continue
        if dtype in _NAMED:
            return _NAMED[dtype]
    return None


def _shapes(config: Config, loaded: LoadedModel | None) -> list[Shape]:
    """(d_out, d_in) of the linear maps in the base's layers."""
    if loaded is not None:
        return [map_shape(module) for module in find_maps(loaded.model, None, None).values()]
    return shapes_of(place_of_base(config))
