"""Natural clients: no example in two parts, bounds kept, whole clients held out, draws that depend on the seed alone."""

from collections import Counter

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlora.errors import ConfigError, DataError
from fedlora.training.data.digests import example_digests
from fedlora.training.data.examples import Texts
from fedlora.training.data.natural import require_several_owners
from fedlora.training.data.split import centralized, split
from fedlora.training.encoding.tokens import Tokens
from fedlora.training.settings import SplitSettings

NO_TEST = Texts((), numpy.zeros(0, dtype=numpy.int64))


def texts(groups):
    count = len(groups)
    return Texts(tuple(map(str, range(count))), numpy.arange(count) % 3, tuple(groups))


def settings_of(**keys):
    return SplitSettings(kind="natural", column="who", **keys)


@st.composite
def worlds(draw):
    """Owners of examples, and a split of them that leaves somebody to train."""
    some = draw(st.lists(st.sampled_from("abcdefgh"), min_size=8, max_size=120))
    groups = draw(st.permutations(some + 3 * sorted(set(some))))  # four at least, so that each has one to spare
    counts = Counter(groups)
    least = draw(st.none() | st.integers(1, sorted(counts.values())[-1]))
    left = sum(count >= (least or 1) for count in counts.values())
    unseen = draw(st.none() | st.integers(0, left - 1) | st.floats(0.01, 0.45).filter(lambda _: left > 2))
    if isinstance(unseen, float) and max(1, round(unseen * left)) >= left:
        unseen = None
    keys = {"min_examples": least, "max_examples": draw(st.none() | st.integers(3, 30)), "unseen": unseen}
    keys |= {
        "test_by": draw(st.sampled_from([None, "random", "order"])),
        "validation": draw(st.sampled_from([0.0, 0.3])),
    }
    return groups, settings_of(**keys), draw(st.sampled_from([0.2, 0.4]))


def dealt(world, seed=0):
    groups, settings, share = world
    train = texts(groups)
    test = NO_TEST if settings.test_by else train
    return split(train, test, settings, seed, share)


def parts_of(result):
    """Client -> the training examples of each of its parts, as numbers of the training set."""
    found = {}
    for client, own in result.clients.items():
        test = result.test[own.test] if result.test is not None else own.test[:0]
        found[client] = {"train": own.train, "validation": own.validation, "test": test}
    return found


@given(worlds())
def test_no_example_is_in_two_parts_and_none_is_lost(world):
    result = dealt(world)
    groups = world[0]
    rows = [(client, int(row)) for client, parts in parts_of(result).items() for part in parts.values() for row in part]
    rows += [(client, int(row)) for client, own in result.unseen.items() for row in own.test]
    assert len({row for _, row in rows}) == len(rows)
    assert all(groups[row] == client for client, row in rows)
    assert result.unused == len(groups) - len(rows)


@given(worlds())
def test_unseen_clients_train_on_nothing_and_are_as_many_as_asked_for(world):
    result = dealt(world)
    groups, settings, _ = world
    assert not set(result.unseen) & set(result.clients)
    trained = {groups[row] for own in result.clients.values() for row in (*own.train, *own.validation)}
    assert not trained & set(result.unseen)
    assert all(len(own.train) == len(own.validation) == 0 for own in result.unseen.values())
    assert all(len(own.test) for own in result.unseen.values())
    left = sum(count >= (settings.min_examples or 1) for count in Counter(groups).values())
    given_number = settings.unseen or 0
    asked = given_number if isinstance(given_number, int) else max(1, round(given_number * left))
    assert len(result.unseen) == asked
    assert len(result.unseen) + len(result.clients) + len(result.empty) + len(result.small) == len(set(groups))


@given(worlds())
def test_the_bounds_are_kept(world):
    result = dealt(world)
    groups, settings, share = world
    counts, most = Counter(groups), settings.max_examples or len(groups)
    assert set(result.small) == {client for client, count in counts.items() if count < (settings.min_examples or 1)}
    for client, parts in parts_of(result).items():
        total = sum(len(part) for part in parts.values())
        assert total == min(counts[client], most)
        if settings.test_by:
            assert len(parts["test"]) == min(round(share * total), total - 1)
    assert all(len(own.test) == min(counts[client], most) for client, own in result.unseen.items())


@given(worlds())
def test_draws_depend_on_the_seed_alone(world):
    """The same again; and whom others are, or in what order they stand, changes nothing at a client."""
    result, again = dealt(world), dealt(world)
    assert digest(result) == digest(again)
    groups, settings, share = world
    moved = [f"z{group}" if group == "h" else group for group in groups]  # one client has another name
    if settings.unseen or "h" not in groups:
        return
    other = split(texts(moved), NO_TEST if settings.test_by else texts(moved), settings, 0, share)
    here, there = parts_of(result), parts_of(other)
    for client in set(here) & set(there):
        assert all(here[client][part].tolist() == there[client][part].tolist() for part in here[client])


def digest(result):
    none = numpy.zeros(0, dtype=numpy.int64)
    tokens = Tokens(none.astype(numpy.int32), numpy.zeros(1, dtype=numpy.int64), none)
    return example_digests(tokens, tokens, result)["owners"]


def test_another_seed_draws_other_clients_and_other_examples():
    groups = [f"c{n % 20:02d}" for n in range(1000)]
    found = {}
    for seed in range(3):
        result = split(texts(groups), NO_TEST, settings_of(max_examples=20, test_by="random", unseen=5), seed)
        found[seed] = (tuple(result.unseen), digest(result))
    assert len({unseen for unseen, _ in found.values()}) == len({told for _, told in found.values()}) == 3


def test_only_so_many_clients_take_part_whom_another_seed_draws_anew():
    """Of twenty with enough examples eight, of whom two never train; nobody of those who have too few."""
    groups = [name for number in range(20) for name in [f"client{number:02d}"] * 5] + ["small"] * 2
    settings = settings_of(min_examples=3, max_clients=8, unseen=2)
    first, again, other = (split(texts(groups), texts(groups), settings, seed, 0.2) for seed in (0, 0, 1))
    assert (len(first.clients), len(first.unseen)) == (6, 2)
    assert first.clients.keys() == again.clients.keys() != other.clients.keys()
    assert first.small == ("small",)
    whole = split(texts(groups), texts(groups), settings_of(min_examples=3, max_clients=50), 0, 0.2)
    assert len(whole.clients) == 20


def test_by_order_the_last_examples_are_the_test_part():
    groups = ["a", "b"] * 10
    result = split(texts(groups), NO_TEST, settings_of(test_by="order"), 0, 0.3)
    parts = parts_of(result)
    assert parts["a"]["test"].tolist() == [14, 16, 18]
    assert parts["b"]["train"].tolist() == [1, 3, 5, 7, 9, 11, 13]
    assert result.test.tolist() == [14, 15, 16, 17, 18, 19]
    assert result.clients["b"].test.tolist() == [1, 3, 5]  # numbers of the new test set


def test_with_fewer_examples_the_last_of_those_that_were_drawn():
    result = split(texts(["a", "b"] * 50), NO_TEST, settings_of(test_by="order", max_examples=10), 0, 0.2)
    for parts in parts_of(result).values():
        assert (len(parts["train"]), len(parts["test"])) == (8, 2)
        assert parts["train"].max() < parts["test"].min()


def test_a_test_set_is_dealt_to_those_who_train():
    groups = [f"c{n % 5}" for n in range(100)]
    train, test = texts(groups), Texts(tuple(map(str, range(30))), numpy.arange(30) % 3)
    result = split(train, test, settings_of(unseen=2), 0)
    assert sorted(numpy.concatenate([own.test for own in result.clients.values()])) == list(range(30))
    assert result.test is None
    assert [len(own.test) for own in result.unseen.values()] == [20, 20]


def test_centralized_training_leaves_unseen_clients_unseen():
    result = split(texts([f"c{n % 5}" for n in range(100)]), NO_TEST, settings_of(unseen=2, test_by="random"), 0)
    (everybody,) = centralized(result).clients.values()
    assert (len(everybody.train), len(everybody.test)) == (48, 12)
    assert list(centralized(result).unseen) == list(result.unseen)


def test_unseen_clients_have_label_names_of_their_own_where_the_others_do():
    result = split(
        texts([f"c{n % 5}" for n in range(100)]), NO_TEST, settings_of(unseen=2, test_by="random", permuted=True), 0
    )
    assert all(sorted(own.label_permutation) == [0, 1, 2] for own in result.unseen.values())


def test_the_digest_of_owners_sees_who_is_unseen():
    groups = [f"c{n % 5}" for n in range(100)]
    one, other = (split(texts(groups), NO_TEST, settings_of(unseen=n, test_by="order"), 0) for n in (1, 2))
    assert digest(one) != digest(other)


def test_a_single_owner_is_refused():
    with pytest.raises(DataError, match=r"the column 'who' \(split\.column\) names one client, 'a', for all 9"):
        require_several_owners(texts("a" * 9), "who")
    with pytest.raises(DataError, match="owners names one client"):
        require_several_owners(texts("a" * 9), None)
    require_several_owners(texts("aab"), "who")


@pytest.mark.parametrize("key", [{"min_examples": 2}, {"max_examples": 2}, {"test_by": "order"}, {"unseen": 0.5}])
def test_keys_of_natural_clients_are_refused_elsewhere(key):
    ((name, _),) = key.items()
    with pytest.raises(
        ConfigError, match=rf"split\.{name} is .*, which is for natural clients, but split\.kind is 'iid'"
    ):
        SplitSettings(kind="iid", **key)
