"""Tokens: what the tokenizer gives text by text, kept on disk between runs."""

import numpy
import pytest
from tiny_models import tokenizer

from fedlora.training.data.examples import Texts
from fedlora.training.encoding import tokens as subject
from fedlora.training.encoding.tokens import tokenise, tokenise_once

TEXTS = Texts(("w1 w2 w3", "", "w4 w5", "nobody knows w6", "w7 " * 30), numpy.arange(5))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "fedlora" / "tokens"


def expected():
    own = tokenizer()
    return [own(text, truncation=True, max_length=9)["input_ids"] for text in TEXTS.texts]


def rows(tokens):
    return [tokens[index].tolist() for index in range(len(tokens))]


def same(tokens):
    assert rows(tokens) == expected()
    assert tokens.ids.dtype == numpy.int32
    assert tokens.labels is TEXTS.labels


def test_text_by_text(monkeypatch):
    monkeypatch.setattr(subject, "_TEXTS_A_TIME", 2)  # the oracle stands above: one text at a time
    same(tokenise(TEXTS, tokenizer(), 9))


def test_made_once_and_mapped(cache, monkeypatch):
    same(tokenise_once(TEXTS, tokenizer(), "t", 9))
    monkeypatch.setattr(subject, "_encoded", None)  # from here on nothing is tokenised
    found = tokenise_once(TEXTS, None, "t", 9)
    same(found)
    assert isinstance(found.ids.base, numpy.memmap)
    assert not found.ids.flags.writeable
    assert len(list(cache.iterdir())) == 1
    assert oct((cache / next(cache.iterdir())).stat().st_mode)[-2:] == "00", "for this user only"


def test_other_contents_are_another_entry(cache):
    tokenise_once(TEXTS, tokenizer(), "t", 9)
    assert len(rows(tokenise_once(TEXTS, tokenizer(), "t", 5))[4]) == 5
    tokenise_once(TEXTS, tokenizer(), "another", 9)
    joined = Texts(("w1 w2 w3w4 w5", "", "", "nobody knows w6", "w7 " * 30), numpy.arange(5))
    tokenise_once(joined, tokenizer(), "t", 9)
    assert len(list(cache.iterdir())) == 4


def test_a_damaged_entry_is_not_believed(cache):
    tokenise_once(TEXTS, tokenizer(), "t", 9)
    (entry,) = cache.iterdir()
    (entry / "ids").write_bytes((entry / "ids").read_bytes()[:8])
    same(tokenise_once(TEXTS, tokenizer(), "t", 9))


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "fedlora").write_text("a file in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    same(tokenise_once(TEXTS, tokenizer(), "t", 9))
