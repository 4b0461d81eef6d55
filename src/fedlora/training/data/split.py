# SPDX-License-Identifier: Apache-2.0
"""Who owns which example: splits over clients, validation parts, and test parts that fit them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy
from numpy.typing import NDArray

from fedlora.core.seeds import numpy_stream, stream_seed
from fedlora.errors import DataError
from fedlora.training.data.examples import Examples
from fedlora.training.data.natural import Natural, natural_clients
from fedlora.training.settings import DataSettings, SplitSettings

Indices = NDArray[numpy.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Owned:
    """One client's examples."""

    train: Indices
    """Into the training set."""
    validation: Indices
    """Into the training set."""
    test: Indices
    """Into the test set."""
    label_permutation: Indices | None = None
    """Of each label, the number that it has at this client; None: its number in the dataset."""


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """The examples of all clients."""

    clients: Mapping[str, Owned]
    """By client id, sorted."""
    empty: tuple[str, ...]
    """Clients that got no training example and are left out."""
    unused: int
    """Training examples that belong to nobody."""
    unseen: Mapping[str, Owned] = field(default_factory=dict)
    """Natural clients that never train, by client id: their `test` are numbers of training examples, and they own
    nothing else."""
    small: tuple[str, ...] = ()
    """Natural clients that are left out because they have too few examples."""
    test: Indices | None = None
    """The training examples that are the test set, where it was cut out of the clients; None: the data's own."""

    @property
    def for_training(self) -> dict[str, Indices]:
        """Client -> its training examples, the validation part included."""
        return {
            client: numpy.sort(numpy.concatenate([part.train, part.validation]))
            for client, part in self.clients.items()
        }

    @property
    def scored_in_training(self) -> Indices:
        """The training examples that may be scored: those for validation, and those of clients that never train."""
        within = [part.validation for part in self.clients.values()] + [part.test for part in self.unseen.values()]
        return numpy.unique(numpy.concatenate([numpy.zeros(0, dtype=numpy.int64), *within]))


def split(
    train: Examples, test: Examples, settings: SplitSettings, seed: int, test_share: float = DataSettings.test_share
) -> Split:
    """Deal training examples to clients, then test examples by the labels that they got, or cut them out of each.

    Args:
        train: the training set.
        test: the test set; where test parts are cut out of the clients it is not looked at.
        settings: how to deal.
        seed: of every draw.
        test_share: of each natural client's examples, where its test part is cut out of them.

    Raises:
        DataError: the split is impossible with these data.
    """
    natural = natural_clients(train, settings, test_share, seed) if settings.kind == "natural" else Natural({})
    dealt = natural.training or _partition(train, settings, seed)
    owned = {client: _cut(indices, settings.validation, client, seed) for client, indices in dealt.items()}
    empty = tuple(sorted(client for client, (training, _) in owned.items() if not len(training)))
    present = {client: owned[client] for client in sorted(owned) if client not in empty}
    if not present:
        raise DataError(f"The {settings.kind} split leaves every client without training examples.")
    chosen = None
    if settings.test_by is None:
        labels = {client: train.labels[training] for client, (training, _) in present.items()}
        tests = deal_tests(labels, test.labels, seed)
    else:
        chosen = numpy.sort(numpy.concatenate([natural.test[client] for client in present]))
        tests = {client: numpy.searchsorted(chosen, natural.test[client]) for client in present}
    count = 1 + int(train.labels.max())
    names = {
        client: numpy_stream(seed, "label names", client).permutation(count) if settings.permuted else None
        for client in (*present, *natural.unseen)
    }
    clients = {client: Owned(*parts, tests[client], names[client]) for client, parts in present.items()}
    none = numpy.zeros(0, dtype=numpy.int64)
    unseen = {client: Owned(none, none, part, names[client]) for client, part in natural.unseen.items()}
    used = sum(len(part.train) + len(part.validation) for part in clients.values())
    used += sum(len(part.test) for part in unseen.values()) + (0 if chosen is None else len(chosen))
    return Split(clients, empty, len(train) - used, unseen, natural.small, chosen)


def centralized(split: Split, name: str = "all") -> Split:
    """One client that owns everyone's examples, with the clients' label permutations given up."""
    all_clients = list(split.clients.values())
    merged = Owned(
        numpy.sort(numpy.concatenate([part.train for part in all_clients])),
        numpy.sort(numpy.concatenate([part.validation for part in all_clients])),
        numpy.sort(numpy.concatenate([part.test for part in all_clients])),
    )
    return replace(split, clients={name: merged})


def _cut(indices: Indices, share: float, client: str, seed: int) -> tuple[Indices, Indices]:
    """A client's training and validation part."""
    order = numpy_stream(seed, "validation part", client).permutation(indices)
    count = round(share * len(indices))
    return numpy.sort(order[count:]), numpy.sort(order[:count])


def deal_tests(owned: Mapping[str, Indices], labels: Indices, seed: int) -> dict[str, Indices]:
    """Deal the test examples of every class in proportion to the clients' realised training counts.

    Largest remainder; equal remainders go to the earlier client. Every test example of a class that
    anybody trains on is dealt once.

    Args:
        owned: client -> the labels of its training examples.
        labels: of every test example.
        seed: which of the examples of a class go to whom.

    Returns:
        Client -> indices of its test examples, sorted.
    """
    clients = list(owned)
    dealt: dict[str, list[int]] = {client: [] for client in clients}
    for label in numpy.unique(labels):
        counts = numpy.array([numpy.count_nonzero(owned[client] == label) for client in clients])
        if not counts.sum():
            continue
        examples = numpy_stream(seed, "test parts", int(label)).permutation(numpy.flatnonzero(labels == label))
        ends = numpy.cumsum(largest_remainder(counts, len(examples)))[:-1]
        for client, part in zip(clients, numpy.split(examples, ends), strict=True):
            dealt[client].extend(part.tolist())
    return {client: numpy.array(sorted(rows), dtype=numpy.int64) for client, rows in dealt.items()}


def largest_remainder(counts: NDArray[numpy.int64], total: int) -> NDArray[numpy.int64]:
    """Whole shares of `total` in proportion to `counts`, which sum to it."""
    quotas = total * counts
    shares: NDArray[numpy.int64] = quotas // counts.sum()
    remainders = quotas - shares * counts.sum()
    order = numpy.argsort(-remainders, kind="stable")
    shares[order[: total - shares.sum()]] += 1
    return shares


def _partition(train: Examples, settings: SplitSettings, seed: int) -> dict[str, Indices]:
    """Client -> indices of its examples, sorted."""
    if settings.clients > len(train):
        raise DataError(f"split.clients is {settings.clients}, but there are only {len(train)} training examples.")
    if settings.kind == "iid":
        order = numpy_stream(seed, "split").permutation(len(train))
        return _named(numpy.array_split(order, settings.clients))
    if settings.kind == "pathological":
        return _named(_pairs(train.labels, settings.clients))
    return _named(_dirichlet(train.labels, settings, seed))


def _dirichlet(labels: Indices, settings: SplitSettings, seed: int) -> list[Indices]:
    """Deal each label by shares that are drawn from a symmetric Dirichlet distribution, label after label.

    The draws are those of flwr-datasets' `DirichletPartitioner` (with `self_balancing` where `balanced`), which the
    tests compare. Where every client with room draws a share of exactly zero, the last client takes the label.

    Raises:
        DataError: alpha is so large that no shares can be drawn.
    """
    draws = numpy.random.default_rng(stream_seed(seed, "split") % 2**32)
    parts: list[list[Indices]] = [[] for _ in range(settings.clients)]
    counts = numpy.zeros(settings.clients, dtype=numpy.int64)
    for label in numpy.unique(labels):
        examples = numpy.flatnonzero(labels == label)
        shares = draws.dirichlet(numpy.full(settings.clients, float(settings.alpha)))
        if not numpy.isclose(shares.sum(), 1.0):
            raise DataError(f"split.alpha is {settings.alpha:g}, from which no shares can be drawn: take, say, 0.5.")
        if settings.balanced:
            shares[counts > len(labels) / settings.clients] = 0.0
            total = numpy.cumsum(shares)[-1]  # added one by one, as in the reference: no other order gives its bits
            shares = shares / total if total > 0.0 else numpy.zeros_like(shares)
        ends = (numpy.cumsum(shares) * len(examples)).astype(numpy.int64)[:-1]
        for client, part in enumerate(numpy.split(examples, ends)):
            parts[client].append(part)
            counts[client] += len(part)
    return [numpy.concatenate(dealt) for dealt in parts]


def _pairs(labels: Indices, clients: int) -> list[Indices]:
    """Clients 2k-1 and 2k share the classes 2k-1 and 2k half and half, and own no other class."""
    classes = len(numpy.unique(labels))
    if clients % 2 or clients > classes:
        raise DataError(
            f"split.clients is {clients}: pathological pairs need an even number of clients, at most the number "
            f"of labels ({classes})."
        )
    parts: list[Indices] = []
    for pair in range(clients // 2):
        halves: list[list[Indices]] = [[], []]
        for label in (2 * pair, 2 * pair + 1):
            examples = numpy.flatnonzero(labels == label)
            if len(examples) < 2:
                raise DataError(
                    f"split.kind is 'pathological', which deals each label to two clients, but label number "
                    f"{label + 1} has only {len(examples)} training examples: leave it out, or choose another split."
                )
            for half, part in zip(halves, numpy.array_split(examples, 2), strict=True):
                half.append(part)
        parts += [numpy.concatenate(half) for half in halves]
    return parts


def _named(parts: Sequence[Indices]) -> dict[str, Indices]:
    """Clients called c0, c1, ... with as many digits as the last one needs."""
    digits = len(str(len(parts) - 1))
    return {f"c{number:0{digits}d}": numpy.sort(part) for number, part in enumerate(parts)}
