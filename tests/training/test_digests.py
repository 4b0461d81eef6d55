"""A digest changes with everything that training and scores see of the examples, and with nothing else."""

import numpy
import pytest

from fedlora.training.data.digests import example_digests
from fedlora.training.data.examples import Texts
from fedlora.training.data.split import Owned, Split, centralized
from fedlora.training.encoding.tokens import Tokens, no_tokens, tokenise, tokenise_once


def tokens(ids=(5, 6, 7, 8, 9), starts=(0, 2, 5), labels=(1, 0)):
    return Tokens(numpy.array(ids, dtype=numpy.int32), numpy.array(starts), numpy.array(labels))


def owned(train=(0,), validation=(), test=(0,), names=None):
    parts = [numpy.array(own, dtype=numpy.int64) for own in (train, validation, test)]
    return Owned(*parts, None if names is None else numpy.array(names))


def dealt(**clients):
    return Split(clients or {"a": owned((0,)), "b": owned((1,))}, (), 0)


@pytest.mark.parametrize(
    "other",
    [
        tokens(ids=(6, 5, 7, 8, 9)),
        tokens(starts=(0, 3, 5)),
        tokens(labels=(0, 1)),
        tokens(starts=(0, 2, 5, 5), labels=(1, 0, 0)),
        no_tokens(),
    ],
)
def test_ids_boundaries_and_labels_count(other):
    before = example_digests(tokens(), tokens(), dealt())
    assert example_digests(tokens(), tokens(), dealt()) == before
    after = example_digests(other, tokens(), dealt())
    assert after["train"] != before["train"]
    assert (after["test"], after["owners"]) == (before["test"], before["owners"])
    assert example_digests(tokens(), other, dealt())["test"] != before["test"]


OWNERS = [
    dealt(),
    dealt(a=owned((1,)), b=owned((0,))),
    dealt(a=owned((0,)), c=owned((1,))),
    dealt(a=owned((0, 1))),
    dealt(a=owned((), (0,)), b=owned((1,))),
    dealt(a=owned((0,), test=(1,)), b=owned((1,))),
    dealt(a=owned((0,), names=(1, 0)), b=owned((1,))),
    dealt(a=owned((0,), names=(0, 1)), b=owned((1,))),
    centralized(dealt()),
]


def test_who_owns_what_counts():
    found = [example_digests(tokens(), tokens(), own)["owners"] for own in OWNERS]
    assert len(set(found)) == len(OWNERS)


def test_the_order_in_which_clients_are_listed_does_not_count():
    turned = Split(dict(reversed(dealt().clients.items())), (), 0)
    assert example_digests(tokens(), tokens(), turned) == example_digests(tokens(), tokens(), dealt())


def test_tokens_from_the_cache_are_those_made_in_memory(monkeypatch, tmp_path, smallest_base):
    from transformers import AutoTokenizer

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tokenizer = AutoTokenizer.from_pretrained(smallest_base)
    texts = Texts(("open my card", "close it"), numpy.array([0, 1]))
    made = tokenise(texts, tokenizer, 8)
    for _ in ("written", "read"):
        assert example_digests(tokenise_once(texts, tokenizer, "t", 8), made, dealt()) == example_digests(
            made, made, dealt()
        )
