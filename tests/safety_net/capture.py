"""What a recording is made of: flat names, each with one entry. Knows torch, but nothing of fedlora.

An entry is a list whose first word is its kind:

    ["tensor", dtype, shape, nbytes, sha256 of the bytes]
    ["score", float in hexadecimal]       losses, accuracies, logits: exact to the bit
    ["count", whole number]               parameters, ranks, tensor bytes
    ["encoded", whole number]             sizes of encoded messages, which headers change
    ["text", string]                      statuses, labels, config values
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Entry = list[Any]


class Recorder:
    """Entries by name, each name once; a prefix is put before every name."""

    def __init__(self, entries: dict[str, Entry] | None = None, prefix: str = "") -> None:
        self.entries: dict[str, Entry] = {} if entries is None else entries
        self._prefix = prefix

    def under(self, *words: str | int) -> "Recorder":
        """The same recording, further down."""
        return Recorder(self.entries, self._prefix + "".join(f"{word}/" for word in words))

    def _put(self, name: str, entry: Entry) -> None:
        full = self._prefix + name
        if full in self.entries:
            raise KeyError(f"{full} is recorded twice")
        self.entries[full] = entry

    def tensor(self, name: str, value: Tensor) -> None:
        """Type, shape, size and digest of a tensor."""
        flat = value.detach().cpu().contiguous()
        data = flat.reshape(-1).view(torch.uint8).numpy().tobytes() if flat.numel() else b""
        digest = hashlib.sha256(data).hexdigest()
        dtype = str(value.dtype).removeprefix("torch.")
        self._put(name, ["tensor", dtype, list(value.shape), len(data), digest])

    def score(self, name: str, value: float | None) -> None:
        """A number to the bit."""
        self._put(name, ["score", None if value is None else float(value).hex()])

    def count(self, name: str, value: int) -> None:
        """A whole number."""
        self._put(name, ["count", value])

    def encoded(self, name: str, value: int) -> None:
        """The size of something encoded, headers included."""
        self._put(name, ["encoded", value])

    def text(self, name: str, value: str) -> None:
        """Words."""
        self._put(name, ["text", value])

    def tensors(self, values: Mapping[str, Tensor]) -> None:
        """Tensors by their own names."""
        for name, value in values.items():
            self.tensor(name, value)

    def tree(self, value: Any) -> None:
        """Every leaf of nested mappings and lists, under its path."""
        self._leaves((), value)

    def _leaves(self, path: tuple[str, ...], value: Any) -> None:
        name = "/".join(path)
        if isinstance(value, Mapping):
            for key, below in value.items():
                self._leaves((*path, str(key)), below)
        elif isinstance(value, list | tuple):
            for number, below in enumerate(value):
                self._leaves((*path, str(number)), below)
        elif isinstance(value, Tensor):
            self.tensor(name, value)
        elif isinstance(value, bool) or value is None or isinstance(value, str):
            self.text(name, str(value))
        elif isinstance(value, int):
            self.count(name, value)
        elif isinstance(value, float):
            self.score(name, value)
        else:
            raise TypeError(f"{name} is a {type(value).__name__}, which cannot be recorded")


def tensor_bytes(tree: Any) -> int:
    """Bytes of all tensors of nested mappings and lists, without names and headers."""
    if isinstance(tree, Tensor):
        return tree.numel() * tree.element_size()
    if isinstance(tree, Mapping):
        return sum(tensor_bytes(value) for value in tree.values())
    if isinstance(tree, list | tuple):
        return sum(tensor_bytes(value) for value in tree)
    return 0
