# SPDX-License-Identifier: Apache-2.0
"""Folds: what a federation has added to the base's weights, always as the total since W0.

A merged update grows by a pair of factors a round. It stays a pair while that is cheaper than the matrix, module
by module, and is dense from then on. Whoever grows the same merged update by the same pairs in the same order has
the same bits, so that a server can send a member what it missed, or the whole.

What becomes a part of the weights never travels or adds up in low precision: its float32 numbers are sent
by their bits, whatever the wire's type.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from fedlora.core.lowrank import LowRank, delta
from fedlora.core.payload import Payload, branch, tensors_at
from fedlora.errors import PayloadError

MergedUpdate = Mapping[str, LowRank | Tensor]
"""Module -> the total since W0, without the scale: a pair, or (d_out, d_in) in float32."""


def grow(merged: MergedUpdate, step: MergedUpdate) -> dict[str, LowRank | Tensor]:
    """A merged update with a step added to it; sums are formed in float64 and kept in float32."""
    return {module: _grown(merged.get(module), more) for module, more in step.items()}


def _grown(before: LowRank | Tensor | None, more: LowRank | Tensor) -> LowRank | Tensor:
    if before is None:
        return cheaper(more)
    if isinstance(before, LowRank) and isinstance(more, LowRank):
        return cheaper(LowRank(torch.cat([before.A, more.A]), torch.cat([before.B, more.B], dim=1)))
    return (_dense(before) + _dense(more)).float()


def cheaper(value: LowRank | Tensor) -> LowRank | Tensor:
    """A pair that holds no fewer numbers than its product becomes the product."""
    if isinstance(value, LowRank) and not is_thin(value.rank, value.B.shape[0], value.A.shape[1]):
        return _dense(value).float()
    return value


def in_float32(value: LowRank | Tensor) -> LowRank | Tensor:
    """The same in single precision."""
    return LowRank(value.A.float(), value.B.float()) if isinstance(value, LowRank) else value.float()


def is_thin(rank: int, d_out: int, d_in: int) -> bool:
    """Whether a pair holds fewer numbers than the matrix."""
    return rank * (d_in + d_out) < d_in * d_out


def _dense(value: LowRank | Tensor) -> Tensor:
    return delta(LowRank(value.A.double(), value.B.double())) if isinstance(value, LowRank) else value.double()


def numbers(merged: MergedUpdate) -> int:
    """How many numbers a merged update holds."""
    return sum(v.A.numel() + v.B.numel() if isinstance(v, LowRank) else v.numel() for v in merged.values())


def merged_to_payload(merged: MergedUpdate) -> dict[str, dict[str, Tensor]]:
    """A merged update as it travels: exact, as the bits of its numbers."""
    pairs = {module: value for module, value in merged.items() if isinstance(value, LowRank)}
    whole = {module: value for module, value in merged.items() if not isinstance(value, LowRank)}
    payload = {
        "A": {module: _bits(pair.A) for module, pair in pairs.items()},
        "B": {module: _bits(pair.B) for module, pair in pairs.items()},
        "sum": {module: _bits(value) for module, value in whole.items()},
    }
    return {name: tensors for name, tensors in payload.items() if tensors}


def merged_from_payload(payload: Payload) -> dict[str, LowRank | Tensor]:
    """The inverse of `merged_to_payload`.

    Raises:
        PayloadError: this is no merged update.
    """
    inputs, outputs, whole = (tensors_at(payload, name) for name in ("A", "B", "sum"))
    if inputs.keys() != outputs.keys():
        raise PayloadError("a merged update's factors come in pairs")
    merged: dict[str, LowRank | Tensor] = {m: LowRank(_numbers(A), _numbers(outputs[m])) for m, A in inputs.items()}
    return merged | {module: _numbers(value) for module, value in whole.items()}


def merged_at(payload: Payload, key: str) -> dict[str, dict[str, LowRank | Tensor]]:
    """Several merged updates by name."""
    entries = branch(payload, key)
    return {name: merged_from_payload(branch(entries, name)) for name in entries}


def _bits(tensor: Tensor) -> Tensor:
    return tensor.float().contiguous().view(torch.int32)


def _numbers(bits: Tensor) -> Tensor:
    if bits.dtype != torch.int32 or bits.ndim != 2:
        raise PayloadError("a merged update travels as matrices of 32 bits a number")
    return bits.view(torch.float32)
