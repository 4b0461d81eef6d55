"""Rendered examples end to end: the same from memory and disk, and what is cut or left out is told."""

import numpy
import pytest
from chats import CORPUS, tokenizer

from fedlora.errors import DataError
from fedlora.training.data.dialogues import Completion, Conversation, Message, PlainText
from fedlora.training.encoding import rendered_tokens as subject
from fedlora.training.encoding.render import RenderSettings, make_renderer, render
from fedlora.training.encoding.rendered_tokens import render_tokens, render_tokens_once
from fedlora.training.encoding.tokens import no_tokens

EXAMPLES = [
    Completion("Where is the cat?", "on the mat"),
    Completion(CORPUS[2], "yes"),
    Completion("Tell me a story.", CORPUS[2]),
    Completion("What?", "nothing ÄÖÜ 中"),
]
FIELDS = ("kept", "lengths", "ended")


def renderer(max_length=30, template=None, examples=EXAMPLES, **options):
    return make_renderer(examples, tokenizer(template=template), "a base", max_length, RenderSettings(**options))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "fedlora" / "rendered"


def require_same(one, other):
    assert all(getattr(one, name).tolist() == getattr(other, name).tolist() for name in FIELDS)
    for name in ("ids", "starts", "labels", "supervised", "text_bytes", "answers"):
        assert getattr(one.tokens, name).tolist() == getattr(other.tokens, name).tolist()
        assert getattr(one.tokens, name).dtype == getattr(other.tokens, name).dtype


def test_example_by_example(monkeypatch):
    monkeypatch.setattr(subject, "_EXAMPLES_A_TIME", 2)
    made = renderer()
    found = render_tokens(EXAMPLES, made)
    for index, example in enumerate(EXAMPLES):
        (alone,) = render([example], made)
        assert found.tokens[index].tolist() == alone.ids.tolist()
        assert found.tokens.mask(index).tolist() == alone.supervised.tolist()
        assert found.tokens.supervised_lengths[index] == alone.supervised.sum()
        assert found.tokens.text_bytes[index] == alone.bytes
        assert found.tokens.answers[index] == alone.answer
    assert found.tokens.text_bytes[3] == len("nothing ÄÖÜ 中".encode())


def test_tokens_of_a_classification_have_no_mask():
    tokens = no_tokens()
    assert tokens.supervised is None
    assert tokens.supervised_lengths.tolist() == []


def test_made_once_and_mapped(cache, monkeypatch):
    made = renderer()
    expected = render_tokens(EXAMPLES, made)
    require_same(render_tokens_once(EXAMPLES, made, "t"), expected)
    monkeypatch.setattr(subject, "render", None)  # from here on nothing is rendered
    found = render_tokens_once(EXAMPLES, made, "t")
    require_same(found, expected)
    assert isinstance(found.tokens.ids.base, numpy.memmap)
    assert isinstance(found.tokens.supervised.base, numpy.memmap)
    assert len(list(cache.iterdir())) == 1


def test_another_way_of_rendering_is_another_entry(cache):
    ways = [
        (EXAMPLES, renderer()),
        (EXAMPLES, renderer(29)),
        (EXAMPLES, renderer(truncate="end")),
        (EXAMPLES, renderer(separator=" ")),
        (EXAMPLES, renderer(end="<|im_end|>")),
        (EXAMPLES, renderer(style="chat", template="chatml")),
        (EXAMPLES, renderer(style="chat", template="zephyr")),
        (EXAMPLES[:3], renderer()),
        ([PlainText("ab"), PlainText("c")], renderer()),
        ([PlainText("a"), PlainText("bc")], renderer()),
        ([Completion("a", "bc")], renderer()),
    ]
    for examples, made in ways:
        require_same(render_tokens_once(examples, made, "t"), render_tokens(examples, made))
    render_tokens_once(EXAMPLES, renderer(), "another tokenizer")
    assert len(list(cache.iterdir())) == len(ways) + 1


def test_references_are_no_part_of_what_is_rendered(cache):
    render_tokens_once([Completion("a", "b")], renderer(), "t")
    render_tokens_once([Completion("a", "b", ("c",))], renderer(), "t")
    assert len(list(cache.iterdir())) == 1


def test_a_damaged_entry_and_a_cache_in_the_way_are_no_harm(cache, tmp_path, monkeypatch):
    made = renderer()
    expected = render_tokens(EXAMPLES, made)
    render_tokens_once(EXAMPLES, made, "t")
    (entry,) = cache.iterdir()
    (entry / "supervised.npy").write_bytes(b"")
    require_same(render_tokens_once(EXAMPLES, made, "t"), expected)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    require_same(render_tokens_once(EXAMPLES, made, "t"), expected)


def test_a_fault_of_the_data_is_no_fault_of_the_cache(cache):
    talk = Conversation((Message("system", "s"), Message("user", "u"), Message("assistant", "a")))
    made = renderer(template="gemma", examples=[talk])
    with pytest.raises(DataError, match="Example 3 of the roles system"):
        render_tokens_once([EXAMPLES[0], EXAMPLES[0], talk], made, "t")


def test_what_is_cut_and_left_out_is_told():
    assert render_tokens(EXAMPLES, renderer(500)).told("training") == []
    kept = render_tokens(EXAMPLES, renderer(20))
    longest = int(kept.lengths.max())
    assert kept.left_out.tolist() == []
    assert kept.told("training") == [
        f"3 of 4 training examples are longer than model.max_length (20 tokens; the longest has {longest}) and were "
        f"cut; 1 of them lost the end of their answer."
    ]
    found = render_tokens(EXAMPLES, renderer(20, truncate="end"))
    assert found.left_out.tolist() == [1]
    assert found.kept.tolist() == [0, 2, 3]
    assert found.told("test")[1] == (
        "1 test examples are left out, since nothing of their answers is left after cutting: 2."
    )
    assert found.tokens.supervised_lengths.min() > 0


def test_nothing_to_learn_at_all_is_refused():
    with pytest.raises(DataError, match="Of none of the 1 examples anything is left to learn"):
        render_tokens(EXAMPLES[1:2], renderer(20, truncate="end"))
