# SPDX-License-Identifier: Apache-2.0
"""The kinds of adapter: what their two sides look like, and what they add to a weight.

| kind | input side | output side | added to W0 (d_out, d_in) |
|---|---|---|---|
| lora | A (r, d_in) | B (d_out, r) | s B A |
| vera | d (r) | b (d_out) | s diag(b) B' diag(d) A', with one frozen random pair A', B' for the whole model |
| dense | none | D, shaped as the parameter | s D, for every parameter of the base |

Only LoRA has slots: a row of A together with a column of B, which clients may own or lack. The sides of
the other kinds are wholes.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from fedlora.core.lowrank import LowRank

Kind = Literal["lora", "vera", "dense"]
Side = Literal["input", "output"]
Shape = tuple[int, ...]

_SLOT_AXIS: Mapping[tuple[Kind, Side], int] = {("lora", "input"): 0, ("lora", "output"): -1}
_VERA_START = 0.1
"""Where VeRA's d starts (Kopiczko et al., arXiv 2310.11454); b starts at zero."""


def slot_axis(kind: Kind, side: Side) -> int | None:
    """The axis along which a side's slots lie; None where it has none."""
    return _SLOT_AXIS.get((kind, side))


def side_shape(kind: Kind, side: Side, module: Shape, rank: int) -> Shape | None:
    """The shape of one side of a module (d_out, d_in) at a rank; None where this kind has no such side."""
    if kind == "dense":
        return module if side == "output" else None
    d_out, d_in = module
    if kind == "lora":
        return (rank, d_in) if side == "input" else (d_out, rank)
    return (rank,) if side == "input" else (d_out,)


def fresh_side(kind: Kind, side: Side, module: Shape, rank: int, generator: torch.Generator) -> Tensor | None:
    """One side at the start of a run: LoRA's A ~ N(0, 1/d_in), VeRA's d = 0.1, everything else zero."""
    shape = side_shape(kind, side, module, rank)
    if shape is None:
        return None
    if (kind, side) == ("lora", "input"):
        return fresh_rows(module, rank, generator)
    return torch.full(shape, _VERA_START) if (kind, side) == ("vera", "input") else torch.zeros(shape)


def fresh_rows(module: Shape, rank: int, generator: torch.Generator) -> Tensor:
    """Fresh rows of LoRA's A, (rank, d_in), N(0, 1/d_in), of a module (d_out, d_in).

    They are drawn one by one, so that row i is the same whatever the rank.
    """
    d_in = module[1]
    rows = [torch.randn(d_in, generator=generator) / d_in**0.5 for _ in range(rank)]
    return torch.stack(rows) if rows else torch.zeros(0, d_in)


def vera_projection(shapes: Mapping[str, Shape], rank: int, key: int) -> LowRank:
    """VeRA's frozen pair for the whole model, A' (r, largest d_in) and B' (largest d_out, r).

    Drawn as PEFT draws it from `projection_prng_key`: A' before B', both uniform within sqrt(6 / fan), where
    the fan is the number of columns.
    """
    d_out, d_in = (max(shape[place] for shape in shapes.values()) for place in (0, 1))
    generator = torch.Generator().manual_seed(key)

    def uniform(rows: int, columns: int) -> Tensor:
        bound = (6.0 / columns) ** 0.5
        return torch.empty(rows, columns).uniform_(-bound, bound, generator=generator)

    A = uniform(rank, d_in)
    return LowRank(A, uniform(d_out, rank))


def added(kind: Kind, sides: Mapping[Side, Tensor], module: Shape, projection: LowRank | None) -> LowRank | Tensor:
    """What an adapter adds to one weight, without the scale: as a pair where it is one, else whole.

    Args:
        kind: of the adapter.
        sides: of the one module.
        module: its shape.
        projection: VeRA's frozen pair; other kinds have none.

    Raises:
        ValueError: VeRA without its pair.
    """
    if kind == "dense":
        return sides["output"]
    if kind == "lora":
        return LowRank(sides["input"], sides["output"])
    if projection is None:
        raise ValueError("a VeRA adapter needs the frozen pair of its federation")
    d, b, d_in = sides["input"], sides["output"], module[1]
    return LowRank(d[:, None] * projection.A[:, :d_in].to(d), b[:, None] * projection.B[: b.shape[0]].to(b))
