"""What is shown of data: every token on the side of the mask where it is, lengths, what is cut, who owns what."""

import numpy
from chats import CORPUS, tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tokenizer as word_tokenizer

from fedlora.training.data.dialogues import Completion, Conversation, Message
from fedlora.training.data.examples import Texts
from fedlora.training.encoding.render import RenderSettings, make_renderer
from fedlora.training.encoding.rendered_tokens import render_tokens
from fedlora.training.encoding.show import show_labelled, show_owners, show_rendered
from fedlora.training.encoding.tokens import tokenise


def shown(examples, max_length=100, template=None, count=3, **options):
    chosen = tokenizer(template=template)
    made = render_tokens(examples, make_renderer(examples, chosen, "b", max_length, RenderSettings(**options)))
    return made, show_rendered(made, chosen, "training", count=count)


def runs(lines, kind):
    return [line.partition("| ")[2].replace("·", "") for line in lines if line.startswith(f"  {kind}")]


def test_what_is_given_and_what_is_learned_stand_apart():
    talk = Conversation((Message("user", "Who\nis it?"), Message("assistant", "A cat.")))
    _, lines = shown([talk], template="chatml")
    assert runs(lines, "given") == ["<|im_start|>user⏎Who⏎is it?<|im_end|>⏎<|im_start|>assistant⏎"]
    assert runs(lines, "learned") == ["A cat.<|im_end|>"]
    assert any(line.endswith("A· cat·.·<|im_end|>") for line in lines), "tokens are told apart"


def test_lengths_and_what_is_cut():
    examples = [Completion("a", "yes"), Completion(CORPUS[2], "the end"), Completion("b", "no")]
    made, lines = shown(examples, 20)
    assert lines[0].startswith("3 training examples, ")
    longest = int(made.lengths.max())
    assert lines[1].startswith("Tokens of an example: least ")
    assert f"most {longest}" in lines[1]
    assert made.told("training")[0] in lines
    assert f"Example 2, 20 tokens, {longest - 20} cut away, {made.tokens.mask(1).sum()} learned:" in lines


def test_what_is_left_out_keeps_the_numbers_of_the_others():
    examples = [Completion(CORPUS[2], "never seen"), Completion("a", "yes")]
    _, lines = shown(examples, 20, truncate="end")
    assert any("left out" in line and line.endswith(": 1.") for line in lines)
    assert any(line.startswith("Example 2, ") for line in lines)
    assert not any(line.startswith("Example 1, ") for line in lines)


@settings(max_examples=50)
@given(
    prompt=st.text(min_size=1, max_size=20).filter(str.strip), answer=st.text(min_size=1, max_size=20).filter(str.strip)
)
def test_any_text_stays_on_its_line_and_is_shown_whole(prompt, answer):
    _, lines = shown([Completion(prompt, answer)], 400)
    assert all("\n" not in line and "\r" not in line and "\x1b" not in line for line in lines)
    (learned,) = runs(lines, "learned")
    signs = iter(learned)
    assert all(sign in signs for sign in answer if sign.isalnum()), "in this order"
    assert learned.endswith("<|endoftext|>")


def test_a_long_run_loses_its_middle_and_says_so():
    _, lines = shown([Completion("tell " * 300, "yes")], 1000)
    assert any("tokens) " in line and len(line) < 2500 for line in lines if line.startswith("  given"))


def test_owners_are_told_by_size():
    made, _ = shown([Completion("a", "yes"), Completion("b", "no"), Completion("c", "the cat")])
    lines = show_owners({"x": numpy.array([0]), "yy": numpy.array([1, 2])}, made.tokens)
    assert lines[0] == "2 clients."
    assert "least 1" in lines[1]
    learned = made.tokens.supervised_lengths
    assert lines[2].split() == ["yy", "2", "examples", str(learned[1] + learned[2]), "learned", "tokens"]
    assert lines[3].split() == ["x", "1", "examples", str(learned[0]), "learned", "tokens"]


def test_many_owners_are_not_all_listed():
    made, _ = shown([Completion("a", "yes")])
    lines = show_owners({f"c{n}": numpy.array([0]) for n in range(50)}, made.tokens)
    assert lines[-1] == "  and 30 more clients"


def test_labelled_texts():
    chosen, texts = word_tokenizer(), Texts(("w1 w2", "w3", "w4 w5 w6"), numpy.array([1, 0, 1]))
    tokens = tokenise(texts, chosen, 16)
    lines = show_labelled(texts, tokens, ("no", "yes"), chosen, "training", count=2)
    assert lines[0] == "3 training examples with 2 labels, 12 tokens."
    assert [line.split() for line in lines if line.endswith(("  yes", "  no"))] == [["2", "yes"], ["1", "no"]]
    assert "Example 1, 4 tokens, label yes:" in lines
    assert "  text    | [CLS]·w1·w2·[SEP]" in lines
    owners = show_owners({"a": numpy.array([0, 1]), "b": numpy.array([2])}, tokens, ("no", "yes"))
    assert owners[2].endswith("yes 1, no 1")
    assert owners[2].split()[:5] == ["a", "2", "examples", "7", "tokens"]
