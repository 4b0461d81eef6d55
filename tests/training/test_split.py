"""Every example once, test parts by what clients really train on, and sentences where a split is impossible."""

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlora.errors import DataError
from fedlora.training.data.examples import Texts
from fedlora.training.data.split import SplitSettings, centralized, deal_tests, largest_remainder, split


def texts(count, labels, groups=None):
    return Texts(tuple(map(str, range(count))), numpy.arange(count) % labels, groups)


def owners(result):
    return numpy.concatenate([numpy.concatenate([own.train, own.validation]) for own in result.clients.values()])


@pytest.mark.parametrize(
    "settings",
    [
        SplitSettings("iid", 7),
        SplitSettings("dirichlet", 7, 0.5),
        SplitSettings("dirichlet", 7, 0.01),
        SplitSettings("dirichlet", 30, 0.01, balanced=False),
        SplitSettings("pathological", 10),
        SplitSettings("dirichlet", 7, 0.5, validation=0.2),
    ],
    ids=str,
)
def test_every_example_once_and_the_same_again(settings):
    train, test = texts(1000, 10), texts(200, 10)
    one, two, other = (split(train, test, settings, seed) for seed in (0, 0, 1))
    assert sorted(owners(one)) == list(range(1000))
    assert one.unused == 0
    assert len(one.clients) + len(one.empty) == settings.clients
    assert sorted(numpy.concatenate([own.test for own in one.clients.values()])) == list(range(200))
    for client, own in one.clients.items():
        assert own.train.tolist() == two.clients[client].train.tolist()
        assert own.test.tolist() == two.clients[client].test.tolist()
    if settings.kind != "pathological":
        assert any(
            own.train.tolist() != other.clients[c].train.tolist()
            for c, own in one.clients.items()
            if c in other.clients
        )


def test_small_alpha_is_skewed():
    train = texts(2000, 20)
    shares = {}
    for alpha in (100.0, 0.05):
        clients = split(train, train, SplitSettings("dirichlet", 10, alpha), 0).clients.values()
        shares[alpha] = numpy.mean(
            [numpy.count_nonzero(numpy.bincount(train.labels[own.train], minlength=20)) for own in clients]
        )
    assert shares[100.0] == 20
    assert shares[0.05] < 8


def test_pairs_share_two_classes_half_and_half():
    train = texts(800, 12)
    result = split(train, train, SplitSettings("pathological", 8), 0)
    for number, own in enumerate(result.clients.values()):
        pair = number // 2
        counts = numpy.bincount(train.labels[own.train], minlength=12)
        assert numpy.flatnonzero(counts).tolist() == [2 * pair, 2 * pair + 1]
        assert abs(int(counts[2 * pair]) - numpy.count_nonzero(train.labels == 2 * pair) / 2) < 1
    assert result.unused == numpy.count_nonzero(train.labels >= 8)
    with pytest.raises(DataError, match="even number of clients, at most the number of labels"):
        split(train, train, SplitSettings("pathological", 14), 0)


def test_natural_owners_keep_their_names():
    groups = tuple(f"ward {n % 3}" for n in range(90))
    result = split(texts(90, 2, groups), texts(20, 2), SplitSettings("natural"), 0)
    assert list(result.clients) == ["ward 0", "ward 1", "ward 2"]
    assert result.clients["ward 1"].train.tolist() == list(range(1, 90, 3))
    with pytest.raises(DataError, match=r"set split\.column"):
        split(texts(90, 2), texts(20, 2), SplitSettings("natural"), 0)


def test_empty_clients_are_named_and_left_out():
    result = split(texts(400, 3), texts(30, 3), SplitSettings("dirichlet", 20, 0.01, balanced=False), 0)
    assert result.empty
    assert not set(result.empty) & set(result.clients)
    assert all(len(own.train) for own in result.clients.values())


def test_validation_is_cut_from_each_client():
    result = split(texts(1000, 5), texts(50, 5), SplitSettings("iid", 4, validation=0.2), 0)
    for own in result.clients.values():
        assert (len(own.train), len(own.validation)) == (200, 50)
        assert not set(own.train) & set(own.validation)


@given(
    st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=30), min_size=1, max_size=6),
    st.lists(st.integers(0, 5), min_size=1, max_size=60),
)
def test_test_parts_follow_the_realised_counts(owned, labels):
    """Against the definition: every example of a known class once, each share within one of its quota."""
    parts = {f"c{k}": numpy.array(own) for k, own in enumerate(owned)}
    tests = numpy.array(labels)
    dealt = deal_tests(parts, tests, seed=0)
    known = {label for own in owned for label in own}
    assert sorted(numpy.concatenate(list(dealt.values()))) == [i for i, label in enumerate(labels) if label in known]
    for label in known:
        total = sum(own.count(label) for own in owned)
        for k, own in enumerate(owned):
            quota = own.count(label) * labels.count(label) / total
            got = numpy.count_nonzero(tests[dealt[f"c{k}"]] == label)
            assert abs(got - quota) < 1


def test_largest_remainder_by_hand():
    """10 over counts 1, 2, 4: quotas 1.43, 2.86, 5.71; floors 1, 2, 5; the two left go to .86 and .71."""
    assert largest_remainder(numpy.array([1, 2, 4]), 10).tolist() == [1, 3, 6]
    assert largest_remainder(numpy.array([1, 1, 1]), 2).tolist() == [1, 1, 0]


def test_pooled_is_everybody():
    result = split(texts(100, 5), texts(50, 5), SplitSettings("iid", 4, validation=0.2), 0)
    (own,) = centralized(result).clients.values()
    assert (len(own.train), len(own.validation), own.test.tolist()) == (80, 20, list(range(50)))


def test_more_clients_than_examples():
    with pytest.raises(DataError, match=r"split\.clients is 20, but there are only 10"):
        split(texts(10, 2), texts(10, 2), SplitSettings(clients=20), 0)


@pytest.mark.parametrize("alpha", [float("inf"), 1e308])
def test_an_alpha_from_which_nothing_can_be_drawn(alpha):
    with pytest.raises(DataError, match=r"split\.alpha is .*, from which no shares can be drawn: take"):
        split(texts(100, 5), texts(10, 5), SplitSettings("dirichlet", 5, alpha), 0)


def test_a_label_that_two_clients_cannot_share():
    train = Texts(tuple("abcdefg"), numpy.array([0, 0, 1, 1, 2, 2, 3]))
    with pytest.raises(DataError, match="label number 4 has only 1 training examples: leave it out"):
        split(train, train, SplitSettings("pathological", 4), 0)


def test_permuted_names_are_each_clients_own():
    """Drawn by the client's name, a permutation each; central training gives them up."""
    train, test = texts(300, 10), texts(60, 10)
    one, again = (split(train, test, SplitSettings("iid", 4, permuted=True), 0) for _ in range(2))
    names = {client: own.label_permutation.tolist() for client, own in one.clients.items()}
    assert names == {client: own.label_permutation.tolist() for client, own in again.clients.items()}
    assert all(sorted(own) == list(range(10)) for own in names.values())
    assert len({tuple(own) for own in names.values()}) == 4
    assert centralized(one).clients["all"].label_permutation is None
    assert split(train, test, SplitSettings("iid", 4), 0).clients["c0"].label_permutation is None
