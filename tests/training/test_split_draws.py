"""The splits deal the same examples to the same clients as flwr-datasets, which they stand in for."""

import warnings

import numpy
import pytest

from fedlora.core.seeds import numpy_stream, stream_seed
from fedlora.training.data.examples import Texts
from fedlora.training.data.split import SplitSettings, split

reference = pytest.importorskip("flwr_datasets.partitioner")
datasets = pytest.importorskip("datasets")


def parts_of(partitioner, labels):
    """Which rows each partition of flwr-datasets holds."""
    datasets.disable_progress_bars()
    partitioner.dataset = datasets.Dataset.from_dict({"label": labels, "row": numpy.arange(len(labels))})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts = [partitioner.load_partition(number) for number in range(partitioner.num_partitions)]
        return [sorted(part["row"]) for part in parts]


def dealt(labels, settings, seed, groups=None):
    """Which rows each client of ours has, clients without any included."""
    texts = Texts(tuple(map(str, range(len(labels)))), labels, groups)
    result = split(texts, texts, settings, seed)
    rows = {client: own.train.tolist() for client, own in result.clients.items()} | {
        client: [] for client in result.empty
    }
    return [rows[client] for client in sorted(rows)]


def some_labels(seed, count, labels):
    """Labels of different frequencies, some of which no example has."""
    draw = numpy.random.default_rng(seed)
    return draw.choice(labels, count, p=draw.dirichlet(numpy.full(labels, 0.7))).astype(numpy.int64)


def settings_of(seed):
    """Other sizes, alphas and numbers of clients for every seed."""
    draw = numpy.random.default_rng([seed, 7])
    labels = some_labels(seed, int(draw.integers(30, 700)), int(draw.integers(2, 30)))
    alpha = float(numpy.exp(draw.uniform(numpy.log(1e-4), numpy.log(1e3))))
    return labels, int(draw.integers(1, 30)), alpha


@pytest.mark.parametrize("balanced", [True, False], ids=["balanced", "unbalanced"])
def test_dirichlet_deals_as_the_reference(balanced):
    for seed in range(100):
        labels, clients, alpha = settings_of(seed)
        partitioner = reference.DirichletPartitioner(
            clients, "label", alpha=alpha, min_partition_size=0, self_balancing=balanced,
            seed=stream_seed(seed, "split") % 2**32,
        )  # fmt: skip
        expected = parts_of(partitioner, labels)
        assert dealt(labels, SplitSettings("dirichlet", clients, alpha, balanced), seed) == expected, seed


def test_iid_deals_as_the_reference():
    for seed in range(30):
        labels, clients, _ = settings_of(seed)
        order = numpy_stream(seed, "split").permutation(len(labels))
        shards = parts_of(reference.IidPartitioner(clients), labels[order])
        assert dealt(labels, SplitSettings("iid", clients), seed) == [sorted(order[own].tolist()) for own in shards]


def test_pairs_deal_as_the_reference():
    for seed in range(30):
        labels = numpy.random.default_rng(seed).permutation(numpy.arange(seed + 40) % 12)
        expected = []
        for pair in range(4):
            rows = numpy.flatnonzero(labels // 2 == pair)
            both = reference.PathologicalPartitioner(
                2, "label", 2, class_assignment_mode="deterministic", shuffle=False
            )
            expected += [rows[half].tolist() for half in parts_of(both, labels[rows])]
        assert dealt(labels, SplitSettings("pathological", 8), seed) == expected


def test_natural_owners_are_those_of_the_reference():
    for seed in range(30):
        codes = numpy.random.default_rng(seed).integers(0, 9, 200)
        labels, groups = codes % 2, tuple(f"ward {code}" for code in codes)
        expected = parts_of(reference.NaturalIdPartitioner("label"), codes)
        assert dealt(labels, SplitSettings("natural"), seed, groups) == expected


def test_the_comparison_can_fail():
    """Another seed, and another rule of balance, give other parts."""
    labels, clients, _ = settings_of(0)
    one = dealt(labels, SplitSettings("dirichlet", clients, 0.5), 0)
    assert one != dealt(labels, SplitSettings("dirichlet", clients, 0.5), 1)
    assert one != dealt(labels, SplitSettings("dirichlet", clients, 0.5, balanced=False), 0)
