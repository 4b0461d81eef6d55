"""Long texts as several examples: nothing is lost, everything is learned once, owners stay."""

from itertools import pairwise

import numpy
import pytest
from chats import tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlora.errors import ConfigError
from fedlora.training.data.dialogues import Completion, Dialogues, PlainText
from fedlora.training.encoding.render import RenderSettings, make_renderer
from fedlora.training.encoding.rendered_tokens import render_tokens
from fedlora.training.encoding.splitting import encode_split_texts

CHOSEN = tokenizer()
WORDS = st.lists(st.sampled_from(["the cat", "sat", "on a mat", "früh", "日本", "\n"]), min_size=1, max_size=30)


def renderer(examples, length):
    return make_renderer(examples, CHOSEN, "b", length, RenderSettings())


def made(texts, length):
    examples = Dialogues(tuple(map(PlainText, texts)), groups=tuple(f"owner {n}" for n in range(len(texts))))
    whole = render_tokens(examples.examples, renderer(examples.examples, 10**6)).tokens
    return examples, whole, encode_split_texts(examples, renderer(examples.examples, length), "training", None)


@settings(max_examples=60)
@given(texts=st.lists(WORDS.map(" ".join).filter(str.strip), min_size=1, max_size=4), length=st.integers(2, 12))
def test_every_token_is_there_and_learned_once(texts, length):
    examples, whole, found = made(texts, length)
    pieces = found.tokens
    assert pieces.lengths.max() <= length
    assert (numpy.diff(found.kept) >= 0).all()
    for text in range(len(texts)):
        numbers = numpy.flatnonzero(found.kept == text)
        ids = [pieces[n] if n == numbers[0] else pieces[n][1:] for n in numbers]
        assert numpy.concatenate(ids).tolist() == whole[text].tolist()
        for one, other in pairwise(numbers):
            assert pieces[one][-1] == pieces[other][0], "a piece begins with the last token before it"
        masks = [pieces.mask(n) if n == numbers[0] else pieces.mask(n)[1:] for n in numbers]
        assert numpy.concatenate(masks).tolist() == whole.mask(text).tolist()
        assert not any(pieces.mask(n)[0] for n in numbers)
        assert pieces.text_bytes[numbers].sum() == whole.text_bytes[text]
    assert pieces.supervised_lengths.min() >= 1
    owners = examples.take(found.kept).groups
    assert owners == tuple(f"owner {n}" for n in found.kept)


def test_short_texts_stay_as_they_are():
    _, whole, found = made(["a cat", "a mat"], 50)
    assert found.kept.tolist() == [0, 1]
    assert found.tokens.ids.tolist() == whole.ids.tolist()
    assert found.told == []


def test_what_was_split_is_told():
    _, _, found = made(["the cat sat on a mat and looked at the moon", "a cat"], 4)
    assert len(found.told) == 1
    assert found.told[0].startswith(
        "1 of 2 training texts are longer than model.max_length (4 tokens; the longest has "
    )
    assert found.told[0].endswith(f"were split: {len(found.tokens)} examples in all.")


def test_answers_stay_with_what_they_answer():
    examples = Dialogues((Completion("a cat", "sat"),))
    with pytest.raises(ConfigError, match=r"which is for plain texts, but the test part has a completion"):
        encode_split_texts(examples, renderer(examples.examples, 9), "test", None)
