# SPDX-License-Identifier: Apache-2.0
"""Named random streams.

Every random draw of a run comes from a stream that is named by the run's seed, a purpose and what the
draw belongs to (a round, a client, a module). Streams do not depend on each other, so no draw depends on
the order in which clients are served, on the number of workers, or on what else was drawn.
"""

import hashlib
import json

import numpy
import torch


def stream_seed(seed: int, purpose: str, *keys: str | int) -> int:
    """The 63-bit seed of the stream (seed, purpose, keys...)."""
    name = json.dumps([seed, purpose, *keys]).encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest()) >> 1


def torch_stream(seed: int, purpose: str, *keys: str | int) -> torch.Generator:
    """A fresh torch generator (CPU) for the stream (seed, purpose, keys...)."""
    return torch.Generator().manual_seed(stream_seed(seed, purpose, *keys))


def numpy_stream(seed: int, purpose: str, *keys: str | int) -> numpy.random.Generator:
    """A fresh numpy generator for the stream (seed, purpose, keys...)."""
    return numpy.random.default_rng(stream_seed(seed, purpose, *keys))
