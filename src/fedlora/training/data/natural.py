# SPDX-License-Identifier: Apache-2.0
"""Clients that a column of the data names: which of them take part, with how many examples, and who never trains."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy
from numpy.typing import NDArray

from fedlora.core.seeds import numpy_stream
from fedlora.errors import DataError
from fedlora.training.data.examples import Examples
from fedlora.training.data.tables import Rows, part_file, read_rows
from fedlora.training.settings import SplitSettings

Indices = NDArray[numpy.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Natural:
    """The examples of natural clients, as sorted numbers of training examples."""

    training: Mapping[str, Indices]
    """Client -> what it trains on and validates on."""
    test: Mapping[str, Indices] = field(default_factory=dict)
    """Client -> its test part; nobody's where the data have a test set."""
    unseen: Mapping[str, Indices] = field(default_factory=dict)
    """Client that never trains -> all its examples, for scoring."""
    small: tuple[str, ...] = ()
    """Clients that are left out because they have too few examples."""


def natural_clients(train: Examples, settings: SplitSettings, test_share: float, seed: int) -> Natural:
    """Who owns which example, by the column.

    Clients with too few examples are left out; of the others some are drawn, where there are too many; of those with
    too many examples some examples are drawn; then clients are drawn who never train; then the others' test parts are
    cut off. Every draw is a stream of its own, named by its client.

    Args:
        train: examples with their owners.
        settings: the bounds, and how test parts are cut.
        test_share: of each client's examples, where they are cut.
        seed: of the draws.

    Raises:
        DataError: nobody is left, nobody is left to train, or nobody has a test part.
    """
    owned = owners(train)
    least = settings.min_examples or 1
    small = tuple(client for client, examples in owned.items() if len(examples) < least)
    most = settings.max_examples
    large = _chosen([client for client in owned if client not in small], settings.max_clients, seed)
    kept = {client: _some(owned[client], most, client, seed) for client in large}
    if not kept:
        largest = max(owned, key=lambda client: len(owned[client]))
        raise DataError(
            f"split.min_examples is {least}, but no client has so many examples: {largest!r} has the most, "
            f"{len(owned[largest])}. Lower it."
        )
    held_out = {client: kept[client] for client in _unseen(list(kept), settings, seed)}
    seen = {client: examples for client, examples in kept.items() if client not in held_out}
    if settings.test_by is None:
        return Natural(seen, unseen=held_out, small=small)
    test = {client: _test_part(examples, settings, test_share, client, seed) for client, examples in seen.items()}
    if not any(len(part) for part in test.values()):
        largest = max(seen, key=lambda client: len(seen[client]))
        raise DataError(
            f"data.test_share is {test_share:g} of each client's examples, of which {largest!r} has the most, "
            f"{len(seen[largest])}: nobody gets a test example. Raise it, or leave out split.test_by."
        )
    training = {client: numpy.setdiff1d(examples, test[client]) for client, examples in seen.items()}
    return Natural(training, test, held_out, small)


def owners(train: Examples) -> dict[str, Indices]:
    """Client -> its examples in order; clients are sorted.

    Raises:
        DataError: no column names them.
    """
    if train.groups is None:
        raise DataError("split.kind is 'natural', but no column names the owner: set split.column.")
    names, codes = numpy.unique(numpy.array(train.groups), return_inverse=True)
    order = numpy.argsort(codes, kind="stable")
    parts = numpy.split(order, numpy.cumsum(numpy.bincount(codes))[:-1])
    return {str(name): part for name, part in zip(names, parts, strict=True)}


def require_several_owners(train: Examples, column: str | None) -> None:
    """Refuse a column that says the same of every example.

    Args:
        train: examples with their owners.
        column: that names them; None: they came in Python.

    Raises:
        DataError: there is one owner.
    """
    named = list(owners(train))
    if len(named) == 1:
        where = "owners" if column is None else f"the column {column!r} (split.column)"
        raise DataError(
            f"split.kind is 'natural', but {where} names one client, {named[0]!r}, for all {len(train)} training "
            f"examples; expected at least two: name another column, or choose another split.kind."
        )


def file_rows(path: Path) -> Rows:
    """The rows of a file, or of a folder's training file; where test parts are cut out of clients, no other is read.

    Raises:
        DataError: what cannot be read, and why.
    """
    if not path.exists():
        raise DataError(f"data.path is {str(path)!r}, but there is no such file or folder.")
    return read_rows(part_file(path, "train") if path.is_dir() else path)


def _some(examples: Indices, most: int | None, client: str, seed: int) -> Indices:
    if most is None or len(examples) <= most:
        return examples
    return numpy.sort(numpy_stream(seed, "examples of a client", client).choice(examples, most, replace=False))


def _chosen(clients: list[str], most: int | None, seed: int) -> list[str]:
    """At most so many clients, in their order."""
    if most is None or len(clients) <= most:
        return clients
    return sorted(str(name) for name in numpy_stream(seed, "clients that take part").permutation(clients)[:most])


def _unseen(clients: list[str], settings: SplitSettings, seed: int) -> list[str]:
    """The clients that never train: so many of them, or such a share, at least one."""
    given = settings.unseen
    if not given:
        return []
    count = given if isinstance(given, int) else max(1, round(given * len(clients)))
    if count >= len(clients):
        of = "" if settings.min_examples is None else f" of at least {settings.min_examples} examples"
        meaning = "" if isinstance(given, int) else f", which is {count}"
        raise DataError(
            f"split.unseen is {given:g}{meaning}, but there are {len(clients)} clients{of}: hold out fewer, so that "
            f"somebody trains."
        )
    return sorted(str(name) for name in numpy_stream(seed, "unseen clients").permutation(clients)[:count])


def _test_part(examples: Indices, settings: SplitSettings, share: float, client: str, seed: int) -> Indices:
    """A share of a client's examples, but never all: drawn at random, or the last ones."""
    count = min(round(share * len(examples)), len(examples) - 1)
    if settings.test_by == "order":
        return examples[len(examples) - count :]
    return numpy.sort(numpy_stream(seed, "test part of a client", client).permutation(examples)[:count])
