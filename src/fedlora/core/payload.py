# SPDX-License-Identifier: Apache-2.0
"""Payloads: the only thing that travels.

A payload is a nested mapping of tensors and plain scalars. As bytes it is one safetensors file: the
tensors are numbered in the order of the tree, and the file's metadata holds the tree as JSON with each
tensor replaced by its number. No code is ever loaded from it, and bfloat16 keeps its bits.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fedlora.core.adapter import Tensors
from fedlora.core.header import read_header
from fedlora.errors import PayloadError

type_of_wire: Mapping[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}

Tree = Tensor | str | int | float | bool | None | Mapping[str, "Tree"] | Sequence["Tree"]
Payload = Mapping[str, Tree]

_REFERENCE = "$tensor"


def to_bytes(payload: Payload) -> bytes:
    """Encode a payload. Equal payloads give equal bytes; an empty one gives none.

    Raises:
        PayloadError: it holds something that cannot travel, or a number that is not finite.
    """
    if not payload:
        return b""
    tensors: dict[str, Tensor] = {}
    tree = _strip(payload, tensors)
    stores = Counter(tensor.untyped_storage().data_ptr() for tensor in tensors.values())
    for name, tensor in tensors.items():
        if stores[tensor.untyped_storage().data_ptr()] > 1:  # safetensors takes no two views of one store
            tensors[name] = tensor.clone()
    try:
        text = json.dumps(tree, separators=(",", ":"), allow_nan=False)
    except ValueError as error:
        raise PayloadError("a payload's scalars must be finite numbers") from error
    return save(tensors, metadata={"tree": text})


def from_bytes(data: bytes) -> Payload:
    """Decode a payload.

    Raises:
        PayloadError: these bytes are no payload.
    """
    if not data:
        return {}
    header = read_header(data)
    try:
        tensors = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, AssertionError, RuntimeError) as error:
        raise PayloadError(f"these {len(data)} bytes are no payload") from error
    return _filled(header.tree, tensors)


def outline(data: bytes | memoryview, most_header: int) -> Payload:
    """What a payload would hold, from its header alone: tensors have a type and a shape, but no storage.

    Args:
        data: the encoded payload.
        most_header: how long a header is read at all, in bytes.

    Raises:
        PayloadError: these bytes are no payload.
    """
    if not data:
        return {}
    header = read_header(data, most_header)
    empty = {name: torch.empty(shape, dtype=dtype, device="meta") for name, (dtype, shape) in header.tensors.items()}
    return _filled(header.tree, empty)


def _strip(tree: Tree, tensors: dict[str, Tensor]) -> object:
    if isinstance(tree, Tensor):
        name = str(len(tensors))
        tensors[name] = tree.detach().contiguous()
        return {_REFERENCE: name}
    if isinstance(tree, Mapping):
        if _REFERENCE in tree or not all(isinstance(key, str) for key in tree):
            raise PayloadError(f"a payload's keys are strings other than {_REFERENCE!r}")
        return {key: _strip(value, tensors) for key, value in tree.items()}
    if tree is None or isinstance(tree, str | int | float | bool):
        return tree
    if isinstance(tree, list | tuple):
        return [_strip(value, tensors) for value in tree]
    raise PayloadError(f"a {type(tree).__name__} cannot travel in a payload")


def _filled(tree: object, tensors: Mapping[str, Tensor]) -> Payload:
    """A tree with every reference replaced by its tensor, each used once.

    Raises:
        PayloadError: it is no mapping, or does not refer to these tensors.
    """
    left = dict(tensors)
    try:
        payload = _fill(tree, left)
    except (KeyError, TypeError, RecursionError) as error:
        raise PayloadError("a payload's tree refers to tensors that are not there") from error
    if left or not isinstance(payload, Mapping):
        raise PayloadError("a payload is a mapping that refers to all of its tensors")
    return payload


def _fill(tree: object, left: dict[str, Tensor]) -> Tree:
    if isinstance(tree, dict):
        if tree.keys() == {_REFERENCE}:
            return left.pop(tree[_REFERENCE])
        return {key: _fill(value, left) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_fill(value, left) for value in tree]
    return cast(Tree, tree)


def cast_floats(payload: Payload, dtype: torch.dtype) -> Payload:
    """The same payload with every floating-point tensor in `dtype`."""
    return {key: _cast(value, dtype) for key, value in payload.items()}


def _cast(tree: Tree, dtype: torch.dtype) -> Tree:
    if isinstance(tree, Tensor):
        return tree.to(dtype) if tree.is_floating_point() else tree
    if isinstance(tree, Mapping):
        return cast_floats(tree, dtype)
    return tree


def walk_tensors(tree: Tree) -> list[Tensor]:
    """Every tensor of a tree, in its order."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, Mapping):
        return [tensor for value in tree.values() for tensor in walk_tensors(value)]
    if isinstance(tree, list | tuple):
        return [tensor for value in tree for tensor in walk_tensors(value)]
    return []


def is_finite(payload: Payload) -> bool:
    """Whether every floating-point number in it is finite."""
    return all(bool(t.isfinite().all()) for t in walk_tensors(payload) if t.is_floating_point())


def branch(payload: Payload, key: str) -> Payload:
    """The mapping under a key; empty where the key is absent.

    Raises:
        PayloadError: something else stands there.
    """
    value = payload.get(key, {})
    if not isinstance(value, Mapping):
        raise PayloadError(f"{key!r} should hold a mapping")
    return value


def tensors_at(payload: Payload, key: str) -> Tensors:
    """The mapping of tensors under a key; empty where the key is absent.

    Raises:
        PayloadError: something else stands there.
    """
    value = branch(payload, key)
    if not all(isinstance(tensor, Tensor) for tensor in value.values()):
        raise PayloadError(f"{key!r} should hold tensors")
    return cast(Tensors, value)


def integer_at(payload: Payload, key: str) -> int:
    """The whole number under a key.

    Raises:
        PayloadError: it is absent or something else.
    """
    value = payload.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise PayloadError(f"{key!r} should hold a whole number")
    return value
