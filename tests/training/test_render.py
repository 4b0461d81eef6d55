"""One renderer: the mask covers the answers alone, their end is learned, and prompts are the same everywhere."""

import re

import numpy
import pytest
from chats import CORPUS, ENDS, MARKED, SPECIAL, TEMPLATES, tokenizer
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedlora.errors import DataError, ModelError
from fedlora.training.data.dialogues import Completion, Conversation, Message, PlainText
from fedlora.training.encoding import render as subject
from fedlora.training.encoding.render import (
    RenderSettings,
    make_renderer,
    prompt_ids,
    prompt_of,
    render,
    require_vocabulary,
)

KINDS = ("byte-level", "sentence-pieces")


def renderer(chosen, examples, max_length=500, **options):
    return make_renderer(examples, chosen, "a base", max_length, RenderSettings(**options))


def rendered(item, chosen, max_length=500, **options):
    (found,) = render([item], renderer(chosen, [item], max_length, **options))
    return found


def learned(found, chosen):
    """The supervised runs as texts."""
    edges = numpy.flatnonzero(numpy.diff([0, *found.supervised, 0]))
    runs = [found.ids[a:b].tolist() for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return [chosen.decode(run, clean_up_tokenization_spaces=False) for run in runs]


def talk(*texts):
    return Conversation(tuple(Message(("user", "assistant")[n % 2], text) for n, text in enumerate(texts)))


ONE = talk("What is the capital?", "The capital is Paris.")
TWO = talk("What is it?", "A cat.", "Where?", "On the mat.")
ALL = [*TEMPLATES, *MARKED]


@pytest.mark.parametrize("template", ALL)
def test_the_mask_covers_just_the_answer_and_its_end(template):
    chosen = tokenizer(template=template)
    before = " " if template == "mistral" else ""
    end = ENDS[template]
    found = rendered(ONE, chosen)
    assert learned(found, chosen) == [f"{before}The capital is Paris.{end}"]
    assert found.bytes == len(f"{before}The capital is Paris.")
    turns = rendered(TWO, chosen)
    assert learned(turns, chosen) == [f"{before}A cat.{end}", f"{before}On the mat.{end}"]
    last = rendered(TWO, chosen, turns="last")
    assert learned(last, chosen) == [f"{before}On the mat.{end}"]
    assert last.ids.tolist() == turns.ids.tolist()


@pytest.mark.parametrize("template", ["chatml", "llama-3", "zephyr"])
def test_a_system_message_is_given_and_not_learned(template):
    chosen = tokenizer(template=template)
    item = Conversation((Message("system", "Be kind."), *ONE.messages))
    found = rendered(item, chosen)
    assert "Be kind." in chosen.decode(found.ids)
    assert learned(found, chosen) == [f"The capital is Paris.{ENDS[template]}"]


@pytest.mark.parametrize("template", ALL)
def test_the_end_is_trained_in_every_template(template):
    """FlowerTune trains no end-of-text token, so that its models never stop."""
    chosen = tokenizer(template=template)
    made = renderer(chosen, [ONE])
    found = rendered(ONE, chosen)
    assert found.ids[-1] == chosen.convert_tokens_to_ids(ENDS[template])
    assert found.supervised[-1]
    assert int(found.ids[-1]) in made.stops


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("item", [PlainText("The cat sat."), Completion("The cat", "sat on the mat.")])
def test_the_end_is_trained_without_a_template(kind, item):
    chosen = tokenizer(kind)
    found = rendered(item, chosen)
    assert found.ids.tolist().count(chosen.eos_token_id) == 1
    assert found.ids[-1] == chosen.eos_token_id
    assert found.supervised[-1]


def test_an_end_that_the_data_bring_along_is_not_doubled():
    chosen = tokenizer()
    bare, ended = (rendered(Completion("a", text), chosen) for text in ("cat", "cat<|endoftext|>"))
    assert bare.ids.tolist() == ended.ids.tolist()


@pytest.mark.parametrize("template", ALL)
@pytest.mark.parametrize("item", [ONE, TWO], ids=["one turn", "two turns"])
def test_the_prompt_of_a_generation_is_what_precedes_the_answer_in_training(template, item):
    """FlowerTune evaluates with a prompt that it never trained on."""
    chosen = tokenizer(template=template)
    made = renderer(chosen, [item])
    (found,) = render([item], made)
    given_to_it = prompt_ids(prompt_of(item), made)
    assert found.ids[: found.answer].tolist() == given_to_it.tolist()
    messages = [{"role": turn.role, "content": turn.content} for turn in item.messages[:-1]]
    theirs = chosen.apply_chat_template(messages, add_generation_prompt=True, return_dict=False, enable_thinking=False)
    assert given_to_it.tolist() == theirs, "what a server of the exported model will be given"


def test_transformers_own_mask_is_ours_where_the_template_is_marked():
    chosen = tokenizer(template="chatml, marked")
    messages = [{"role": turn.role, "content": turn.content} for turn in TWO.messages]
    theirs = chosen.apply_chat_template(messages, return_assistant_tokens_mask=True, return_dict=True)
    found = rendered(TWO, chosen)
    assert found.ids.tolist() == theirs["input_ids"][: len(found.ids)]
    assert found.supervised.tolist() == [bool(flag) for flag in theirs["assistant_masks"][: len(found.ids)]]
    assert not any(theirs["assistant_masks"][len(found.ids) :])


words = st.text(st.sampled_from(" \n\tabc.:!äß中\u0301😀<|>"), min_size=1, max_size=30).filter(str.strip)


@settings(max_examples=60)
@given(kind=st.sampled_from(KINDS), prompt=words, completion=words, separator=st.sampled_from(["\n", "", " "]))
@example(kind="byte-level", prompt="a\n\n", completion="b", separator="\n")
@example(kind="byte-level", prompt="a ", completion=" b", separator="")
@example(kind="byte-level", prompt="the hou", completion="se", separator="")
def test_for_any_texts_the_ids_before_the_answer_do_not_depend_on_it(kind, prompt, completion, separator):
    require_the_same_prompt(kind, prompt, completion, separator)


def require_the_same_prompt(kind, prompt, completion, separator):
    chosen, item = tokenizer(kind), Completion(prompt, completion)
    made = renderer(chosen, [item], separator=separator)
    (found,) = render([item], made)
    assert found.ids[: found.answer].tolist() == prompt_ids(prompt, made).tolist()
    assert not found.supervised[: found.answer].any()
    assert found.supervised[found.answer :].all()
    text = chosen.decode(found.ids[found.answer : -1].tolist(), clean_up_tokenization_spaces=False)
    assert text == completion or kind == "sentence-pieces"
    assert found.bytes == len(completion.encode())


@settings(max_examples=60)
@given(template=st.sampled_from(ALL), texts=st.lists(words, min_size=2, max_size=6).filter(lambda t: len(t) % 2 == 0))
def test_for_any_conversation_training_begins_with_what_generation_is_given(template, texts):
    chosen, item = tokenizer(template=template), talk(*texts)
    made = renderer(chosen, [item])
    (found,) = render([item], made)
    assert found.ids[: found.answer].tolist() == prompt_ids(prompt_of(item), made).tolist()
    answers = [text.strip() for text in texts[1::2]]
    end = ENDS[template]
    assert [text.removesuffix(end).strip() for text in learned(found, chosen)] == answers


def test_several_examples_at_once_are_each_as_alone():
    chosen = tokenizer()
    items = [Completion("a", text) for text in ("cat", "mat", "", " dog") if text]
    alone = [rendered(item, chosen).ids.tolist() for item in items]
    assert [found.ids.tolist() for found in render(items, renderer(chosen, items))] == alone


def test_bos_is_put_before_a_text_as_the_tokenizer_does_and_never_learned():
    chosen = tokenizer("sentence-pieces")
    assert rendered(Completion("a", "b"), chosen).ids[0] == chosen.bos_token_id
    text = rendered(PlainText("the cat"), chosen)
    assert text.ids[0] == chosen.bos_token_id
    assert text.supervised.tolist() == [False] + [True] * (len(text.ids) - 1)
    assert text.bytes == len("the cat")
    without = rendered(PlainText("the cat"), tokenizer())
    assert without.supervised.tolist() == [False] + [True] * (len(without.ids) - 1), "nothing precedes the first token"


def test_a_prompt_that_ends_in_white_space_gets_no_separator():
    chosen = tokenizer()
    assert rendered(Completion("a\n", "b"), chosen).ids.tolist() == rendered(Completion("a", "b"), chosen).ids.tolist()


def test_prompts_and_completions_by_the_chat_template():
    chosen, item = tokenizer(template="chatml"), Completion("What is the capital?", "The capital is Paris.")
    chat = rendered(item, chosen, style="chat")
    assert chat.ids.tolist() == rendered(ONE, chosen).ids.tolist()
    made = renderer(chosen, [item], style="chat")
    assert prompt_ids(item.prompt, made).tolist() == chat.ids[: chat.answer].tolist()
    assert "<|im_start|>" not in chosen.decode(rendered(item, chosen).ids)


# What is too long


def cut(item, max_length, kind="byte-level", template=None, **options):
    chosen = tokenizer(kind, template)
    return rendered(item, chosen, **options), rendered(item, chosen, max_length, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_prompt_loses_its_beginning_and_keeps_bos_and_the_answer(kind):
    whole, short = cut(Completion(CORPUS[2], "The end."), 20, kind)
    bos = int(kind == "sentence-pieces")
    assert len(short.ids) == 20
    assert short.ids[bos:].tolist() == whole.ids[len(whole.ids) - 20 + bos :].tolist()
    assert short.ids[:bos].tolist() == whole.ids[:bos].tolist()
    assert (short.whole_answer, short.length, short.bytes) == (True, len(whole.ids), len("The end."))
    assert short.supervised.sum() == whole.supervised.sum()


def test_a_long_prompt_of_a_template_keeps_the_templates_bos():
    whole, short = cut(talk(CORPUS[2], "The end."), 20, template="llama-3")
    assert short.ids[0] == whole.ids[0]
    assert short.ids[1:].tolist() == whole.ids[-19:].tolist()


def test_an_answer_that_alone_is_too_long_loses_its_end():
    whole, short = cut(Completion("Tell me.", CORPUS[2]), 12)
    assert short.ids.tolist() == whole.ids[whole.answer :][:12].tolist()
    assert short.supervised.tolist() == [False] + [True] * 11
    assert not short.whole_answer
    assert short.bytes == len(tokenizer().decode(short.ids[1:].tolist()))


def test_the_end_is_cut_where_that_is_asked_for():
    whole, short = cut(Completion(CORPUS[0], "The end."), 15, truncate="end")
    assert short.ids.tolist() == whole.ids[:15].tolist()
    assert not short.supervised.any(), "nothing of the answer is left"
    assert (short.bytes, short.whole_answer) == (0, False)
    whole, short = cut(PlainText(CORPUS[2]), 15)
    assert short.ids.tolist() == whole.ids[:15].tolist()


def test_a_prompt_without_room_for_an_answer_is_told_and_not_cut():
    chosen = tokenizer()
    with pytest.raises(DataError, match=r"The prompt has \d+ tokens, but model\.max_length is 12"):
        prompt_ids(CORPUS[2], renderer(chosen, [], 12))


# What cannot be rendered

HEADED = TEMPLATES["chatml"].partition("{% if add")[0]
LATE = "{% for m in messages %}{{ m['role'] + ': ' + ('' if loop.last or m['role'] == 'user' else '(old) ') + m['content'] + eos_token }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
OTHER_PROMPT = TEMPLATES["chatml"].replace("<|im_start|>assistant\n' }}{% endif", "<|im_start|>question\n' }}{% endif")
UNMARKED = TEMPLATES["chatml"] + "{% if false %}{% generation %}{% endgeneration %}{% endif %}"
NO_END = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"


@pytest.mark.parametrize(
    ("template", "item", "error", "sentence"),
    [
        (None, ONE, ModelError, "has no chat template"),
        (NO_END, ONE, ModelError, r"writes '\\n' after an answer, which holds no special token"),
        (HEADED, ONE, ModelError, "where an answer should begin with 'The capital"),
        (LATE, TWO, ModelError, "renders earlier messages differently where others follow"),
        (OTHER_PROMPT, ONE, ModelError, r"where an answer should begin|ends the prompt of a generation with"),
        (UNMARKED, ONE, ModelError, "marks nothing of the last answer"),
        ("gemma", Conversation((Message("system", "s"), *ONE.messages)), DataError, "Example 1 of the roles system"),
        ("{{ nonsense.name() }}", ONE, DataError, "refused by the chat template"),
    ],
    ids=["none", "no end", "headed", "late", "other prompt", "unmarked", "role", "nonsense"],
)
def test_a_template_that_cannot_be_verified_is_refused_with_a_sentence(template, item, error, sentence):
    with pytest.raises(error, match=sentence) as caught:
        rendered(item, tokenizer(template=template))
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_what_cannot_be_told_apart_turn_by_turn_can_be_learned_for_the_last():
    chosen = tokenizer(template=LATE)
    found = rendered(TWO, chosen, turns="last")
    assert learned(found, chosen) == ["On the mat.<|endoftext|>"]
    assert "(old) A cat." in chosen.decode(found.ids)


def test_a_marked_template_whose_prompt_differs_from_training_is_refused():
    template = MARKED["chatml, end unmarked"].replace("assistant\n' }}{% endif", "question\n' }}{% endif")
    with pytest.raises(ModelError, match=r"ends the prompt of a generation with .*question"):
        rendered(ONE, tokenizer(template=template))


@pytest.mark.parametrize(
    ("template", "options", "sentence"),
    [
        ("chatml", {"end": "<|eot_id|>"}, "data.end is '<|eot_id|>', which the chat template"),
        (None, {"end": "<stop>"}, "The end-of-text token '<stop>' is no token of the tokenizer"),
    ],
)
def test_an_end_that_is_not_known_is_refused(template, options, sentence):
    item = ONE if template else Completion("a", "b")
    with pytest.raises(ModelError, match=re.escape(sentence)):
        rendered(item, tokenizer(template=template), **options)


def test_a_tokenizer_without_an_end_is_refused_unless_one_is_named():
    chosen = tokenizer(eos_token=None)
    with pytest.raises(ModelError, match="no end-of-text token"):
        rendered(Completion("a", "b"), chosen)
    found = rendered(Completion("a", "b"), chosen, end="<|im_end|>")
    assert found.ids[-1] == chosen.convert_tokens_to_ids("<|im_end|>")


def test_a_base_with_fewer_vectors_than_tokens_is_refused():
    chosen = tokenizer()
    require_vocabulary(chosen, len(chosen), "a base")
    require_vocabulary(chosen, None, "a base")
    with pytest.raises(ModelError, match=f"has {len(chosen)} tokens, but its weights have only {len(chosen) - 1}"):
        require_vocabulary(chosen, len(chosen) - 1, "a base")


# Planted faults: the tests above can fail


def test_planted_a_renderer_that_forgets_the_end(monkeypatch):
    monkeypatch.setattr(subject, "_completed", lambda segments, *_: segments)
    with pytest.raises(AssertionError):
        test_the_end_is_trained_without_a_template("byte-level", Completion("The cat", "sat on the mat."))


def test_planted_a_prompt_that_is_tokenised_together_with_the_answer(monkeypatch):
    def together(passages, renderer):
        """The usual way: count the prompt's tokens, and cut the whole there."""
        befores, wholes = (
            [renderer.tokenizer(text)["input_ids"] for text in texts]
            for texts in ([p.before for p in passages], [p.before + p.answer for p in passages])
        )
        return [
            [
                subject.Segment("", tuple(whole[: len(before)]), False),
                subject.Segment(passage.answer, tuple(whole[len(before) :]), True),
            ]
            for passage, before, whole in zip(passages, befores, wholes, strict=True)
        ]

    monkeypatch.setattr(subject, "_segments", together)
    require_the_same_prompt("byte-level", "the", " house", "\n")
    for prompt, completion in (("the hou", "se"), ("a\n\n", "b")):
        with pytest.raises(AssertionError):
            require_the_same_prompt("byte-level", prompt, completion, "")


def test_planted_an_evaluation_with_another_prompt():
    chosen = tokenizer(template="chatml")
    made = renderer(chosen, [ONE])
    (found,) = render([ONE], made)
    other = (Message("user", "<|im_start|>question\n" + ONE.messages[0].content),)
    assert found.ids[: found.answer].tolist() != prompt_ids(other, made).tolist()


def test_the_special_tokens_of_the_fixture_are_single_tokens():
    for kind in KINDS:
        chosen = tokenizer(kind)
        assert all(len(chosen(token, add_special_tokens=False)["input_ids"]) == 1 for token in SPECIAL)
