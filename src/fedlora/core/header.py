# SPDX-License-Identifier: Apache-2.0
"""The header of an encoded payload, read as if its writer meant harm.

The safetensors library checks that a file's tensors fill it without gaps. Here stands what it does not check:
how long a header may be, that no key comes twice, that numbers are finite, that every tensor is named by the
tree and once.
"""

import json
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from math import isfinite, prod
from typing import Any

import torch

from fedlora.errors import PayloadError

_LENGTH = 8
"""Bytes that hold the header's length."""
_AXES = 16
"""The most axes of a tensor."""
_WIDEST = 2**48
"""The largest product of a tensor's dimensions, those of size zero left out."""
_TYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


@dataclass(frozen=True, slots=True)
class Header:
    """What a payload's bytes say before the first tensor."""

    tree: object
    """JSON, with references in place of tensors."""
    tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
    """By reference, the type and the shape."""


def read_header(data: bytes | memoryview, most: int | None = None) -> Header:
    """Read and check a header.

    Args:
        data: a whole encoded payload, not empty.
        most: how many bytes the header may have; None: as many as there are.

    Raises:
        PayloadError: it is none, or does not describe these bytes.
    """
    size = int.from_bytes(data[:_LENGTH], "little")
    room = len(data) - _LENGTH
    _require(0 < size <= room, "a header longer than the payload")
    _require(most is None or size <= most, f"a header of {size} bytes, more than {most}")
    fields = _mapping(strict_json(bytes(data[_LENGTH : _LENGTH + size])))
    metadata = _mapping(fields.pop("__metadata__", None), {"tree"})
    _require(isinstance(metadata["tree"], str), "a tree that is no text")
    tensors, places = {}, []
    for name, entry in fields.items():
        tensors[name], place = _entry(_mapping(entry, {"dtype", "shape", "data_offsets"}))
        places.append(place)
    end = 0
    for start, stop in sorted(places):
        _require(start == end, "tensors that overlap or leave gaps")
        end = stop
    _require(end == room - size, "tensors that do not fill the payload")
    return Header(strict_json(metadata["tree"]), tensors)


def strict_json(text: str | bytes) -> object:
    """JSON without NaN, infinities and keys that come twice.

    Raises:
        PayloadError: it is something else.
    """
    try:
        return json.loads(text, parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise PayloadError("no JSON, or nested too deeply") from error


def _mapping(value: object, keys: Set[str] | None = None) -> dict[str, Any]:
    """A mapping, with these keys and no others where they are given."""
    if not isinstance(value, dict) or (keys is not None and value.keys() != keys):
        raise PayloadError("the bytes are no payload: a header of another form")
    return value


def _entry(entry: Mapping[str, Any]) -> tuple[tuple[torch.dtype, tuple[int, ...]], tuple[int, int]]:
    """Type, shape and place of one tensor."""
    name, shape, place = entry["dtype"], entry["shape"], entry["data_offsets"]
    _require(isinstance(name, str) and name in _TYPES, "a tensor of an unknown type")
    _require(_sizes(shape, _AXES) and _sizes(place, 2) and len(place) == 2, "a tensor without shape or place")
    _require(prod(max(size, 1) for size in shape) <= _WIDEST, "a tensor too wide")
    dtype = _TYPES[name]
    _require(place[1] - place[0] == prod(shape) * dtype.itemsize, "a tensor whose shape is not its size")
    return (dtype, tuple(shape)), (place[0], place[1])


def _sizes(value: object, most: int) -> bool:
    return isinstance(value, list) and len(value) <= most and all(type(size) is int and size >= 0 for size in value)


def _require(condition: bool, found: str) -> None:
    if not condition:
        raise PayloadError(f"the bytes are no payload: {found}")


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value


def _without_repeats(pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
    found = list(pairs)
    fields = dict(found)
    if len(fields) != len(found):
        raise ValueError("a key comes twice")
    return fields
