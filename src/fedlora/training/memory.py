# SPDX-License-Identifier: Apache-2.0
"""Working in smaller portions when memory runs out, and saying so."""

import gc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from fedlora.errors import ModelError

Result = TypeVar("Result")


_WORDS = ("allocate memory", "could not create a primitive")
"""How torch's CPU allocator and oneDNN say it."""


class SmallerPortions(UserWarning):
    """Memory ran out and work goes on in smaller portions."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


class Portions:
    """How many examples fit into one pass. Starts at a wish and halves when memory runs out.

    Args:
        wish: examples a pass; None: as many as there are.
        what: the key to name when it is halved.
    """

    def __init__(self, wish: int | None, what: str) -> None:
        self._size = wish
        self._what = what

    def run(self, examples: int, work: Callable[[int], Result]) -> Result:
        """Do the work in portions of at most the size that fits; `work` gets that size and starts afresh.

        Raises:
            ModelError: not even one example fits.
        """
        while True:
            size = min(self._size or examples, examples)
            try:
                return work(size)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if size <= 1:
                    raise ModelError(
                        "Not even one example fits into memory: lower model.max_length, choose a smaller model.base, "
                        "or set model.dtype = 'bfloat16'."
                    ) from error
            gc.collect()  # outside the handler, so that nothing of the failed attempt is held
            self._size = size // 2
            warnings.warn(f"Memory ran out: {self._what} is now {self._size}.", SmallerPortions, stacklevel=2)


def require_room(folder: Path, bits: int) -> None:
    """Refuse a base on disk that cannot fit into this machine's memory, before loading it.

    Args:
        folder: with its weights, in 32 bits each or fewer.
        bits: that a weight will take.

    Raises:
        ModelError: with what would fit.
    """
    free = available()
    stored = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    needed = stored * min(bits, 32) // 32
    if free is not None and needed > free:
        raise ModelError(
            f"model.base is {str(folder)!r}, whose weights need {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB of "
            f"memory are free: choose a base of at most {free / 1e9 / 1.3:.1f} GB, or set model.dtype = 'bfloat16'."
        )


def available() -> int | None:
    """Free memory in bytes; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    told = dict(line.split(":", 1) for line in lines)
    return int(told["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in told else None
