# SPDX-License-Identifier: Apache-2.0
"""Token ids of many texts, end to end."""

from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

from fedlora.training.data import Texts


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """Token ids of many examples, end to end."""

    ids: NDArray[numpy.int32]
    starts: NDArray[numpy.int64]
    """Where each example begins in `ids`; one more than examples, the last is the end."""
    labels: NDArray[numpy.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> NDArray[numpy.int32]:
        return self.ids[self.starts[index] : self.starts[index + 1]]

    @property
    def lengths(self) -> NDArray[numpy.int64]:
        """Tokens of each example."""
        return numpy.diff(self.starts)


def tokenise(texts: Texts, tokenizer: Any, max_length: int) -> Tokens:
    """The tokens of every text, special tokens included, cut at `max_length`."""
    encoded = tokenizer(
        list(texts.texts),
        truncation=True,
        max_length=max_length,
        return_attention_mask=False,
        return_token_type_ids=False,
    )["input_ids"]
    starts = numpy.zeros(len(encoded) + 1, dtype=numpy.int64)
    numpy.cumsum([len(ids) for ids in encoded], out=starts[1:])
    flat = [token for ids in encoded for token in ids]
    return Tokens(numpy.array(flat, dtype=numpy.int32), starts, texts.labels)
