# SPDX-License-Identifier: Apache-2.0
"""Which type of a base's weights is faster on a device: a measurement of a few tenths of a second."""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from fedlora.training.bases import hub
from fedlora.training.bases.maps import find_maps, map_shape

_TURNS = 5
_SECONDS = 0.3
"""No further turn begins after so long."""
_FLOP = 1e9
"""About what a turn of one type computes."""
_FEWEST, _MOST = 64, 256
"""Tokens of a pack."""
_WIDEST = 2048
"""Wider maps are measured as if they were so wide: the rate does not change any more."""
_SMALL, _HOPELESS = (256, 256), 0.5
"""A small map, and its speed in bfloat16 below which larger ones need not be tried: they would take long."""
_MARGIN = 1.3
"""How many times as fast the products have to be: attention, norms and adapters are in float32 either way."""

Shape = tuple[int, int]
Seconds = Callable[[Collection[Shape], int, torch.dtype, str], float]


@dataclass(frozen=True, slots=True)
class Probe:
    """What a measurement found."""

    float32: float
    """Seconds of the products in float32."""
    bfloat16: float
    """Seconds of the same products in bfloat16."""

    @property
    def speedup(self) -> float:
        """How many times as fast they are in bfloat16."""
        return self.float32 / self.bfloat16

    @property
    def dtype(self) -> Literal["float32", "bfloat16"]:
        """The type to take: bfloat16 where it is faster by a clear margin."""
        return "bfloat16" if self.speedup >= _MARGIN else "float32"


def shapes_of(name: str) -> list[Shape]:
    """(d_out, d_in) of every linear map in a base's layers, from its config alone; no weights are read.

    Args:
        name: a folder, or a name on the hub.

    Raises:
        Exception: whatever transformers raises where there is no such base.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    absent = not Path(name).exists() and not hub.is_reachable()
    config = AutoConfig.from_pretrained(name, trust_remote_code=False, local_files_only=absent)
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    return [map_shape(module) for module in find_maps(model, None, None).values()]


def measured(shapes: Collection[Shape], device: str, seconds: Seconds | None = None) -> Probe:
    """Time a base's frozen maps in both types by turns, the fastest turn of each.

    Args:
        shapes: (d_out, d_in) of the maps; equal ones count once.
        device: where they are computed; on a CPU by one thread, as clients are trained there.
        seconds: of shapes, tokens, type and device makes the seconds of one turn; None: `seconds_of_products`.
    """
    timed = seconds or seconds_of_products
    glance = _fastest({_SMALL}, _FEWEST, device, timed)
    if glance.speedup < _HOPELESS:
        return glance
    some = {(min(d_out, _WIDEST), min(d_in, _WIDEST)) for d_out, d_in in shapes}
    weights = sum(d_out * d_in for d_out, d_in in some)
    return _fastest(some, int(min(max(_FLOP / (4 * weights), _FEWEST), _MOST)), device, timed)


def _fastest(shapes: Collection[Shape], tokens: int, device: str, timed: Seconds) -> Probe:
    """The fastest of several turns of each type."""
    single = half = float("inf")
    began = time.perf_counter()
    for _ in range(_TURNS):
        single = min(single, timed(shapes, tokens, torch.float32, device))
        half = min(half, timed(shapes, tokens, torch.bfloat16, device))
        if time.perf_counter() - began > _SECONDS:
            break
    return Probe(single, half)


def seconds_of_products(shapes: Collection[Shape], tokens: int, dtype: torch.dtype, device: str) -> float:
    """Seconds of each map's product and of the gradient of its input, once over all shapes.

    Args:
        shapes: (d_out, d_in).
        tokens: of a pack.
        dtype: of weights and inputs.
        device: where.
    """
    maps = [
        [torch.rand(size, device=device).to(dtype) for size in ((d_out, d_in), (tokens, d_in), (tokens, d_out))]
        for d_out, d_in in sorted(shapes)
    ]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _wait(device)
        began = time.perf_counter()
        for weight, x, gradient in maps:
            x @ weight.T
            gradient @ weight
        _wait(device)
        return time.perf_counter() - began
    finally:
        torch.set_num_threads(threads)


def _wait(device: str) -> None:
    """Until a GPU has done what it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(torch.device(device))
