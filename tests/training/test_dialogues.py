"""Examples of language modelling from every layout of rows, and a sentence for every row that holds none."""

import re

import numpy
import pytest

from fedlora.errors import DataError
from fedlora.training.data.dialogue_rows import Layout, dialogues_from_rows, found_format
from fedlora.training.data.dialogues import Completion, Conversation, Message, PlainText, as_conversation


def read(*rows, part="train", group=None, **layout):
    return dialogues_from_rows(rows, Layout(**layout), part, "rows.jsonl", group)


def only(row, **options):
    (example,) = read(row, **options).examples
    return example


TALK = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day"}]
TURNS = (Message("user", "Hello"), Message("assistant", "Good day"))


@pytest.mark.parametrize(
    ("row", "expected", "name"),
    [
        ({"text": "Once"}, PlainText("Once"), "text"),
        ({"prompt": "1+1", "completion": "2"}, Completion("1+1", "2"), "prompt-completion"),
        ({"prompt": "1+1", "completion": 2}, Completion("1+1", "2"), "prompt-completion"),
        ({"question": "1+1", "answer": "#### 2"}, Completion("1+1", "#### 2"), "question-answer"),
        ({"messages": TALK}, Conversation(TURNS), "messages"),
        (
            {"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Good day"}]},
            Conversation(TURNS),
            "sharegpt",
        ),
        ({"instruction": "Add", "input": "1+1", "output": "2"}, Completion("Add\n\n1+1", "2"), "alpaca"),
        ({"instruction": "Add", "input": "", "output": "2"}, Completion("Add", "2"), "alpaca"),
        ({"instruction": "Add", "output": "2"}, Completion("Add", "2"), "alpaca"),
    ],
)
def test_every_layout_is_found_by_its_columns_and_read_by_its_name(row, expected, name):
    assert found_format(row, Layout(), "rows") == name
    assert only(row) == expected
    assert only(row, format=name) == expected


def test_a_system_message_comes_along():
    turns = [{"from": "system", "value": "Be kind"}, {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes"}]
    assert [turn.role for turn in only({"conversations": turns}).messages] == ["system", "user", "assistant"]


def test_conversations_win_over_the_prompt_beside_them():
    assert only({"prompt": "Hello", "completion": "x", "messages": TALK}) == Conversation(TURNS)


def without_their_input(**layout):
    """The rows of an instruction table whose input is not in the prompt."""
    rows = [{"instruction": "Rewrite.", "input": f"sentence {n}" if n % 3 else "", "output": "done"} for n in range(9)]
    return [
        row for row, one in zip(rows, read(*rows, **layout).examples, strict=True) if row["input"] not in one.prompt
    ]


def test_no_row_loses_its_input():
    """FlowerTune's general task trains on instruction and output alone: the model is asked to rewrite nothing."""
    assert not without_their_input()


def test_planted_a_reader_that_drops_the_input():
    lost = without_their_input(format="prompt-completion", prompt="instruction", completion="output")
    assert len(lost) == 6


def test_columns_may_have_any_name():
    row = {"ask": "1+1", "say": "2", "also": ["two"], "chat": TALK, "story": "Once"}
    assert only(row, prompt="ask", completion="say") == Completion("1+1", "2")
    assert only(row, prompt="ask", completion="say", references="also") == Completion("1+1", "2", ("two",))
    assert only(row, messages="chat") == Conversation(TURNS)
    assert only(row, format="text", text="story") == PlainText("Once")
    assert only(row, prompt="ask", context="story", completion="say").prompt == "1+1\n\nOnce"


def test_all_right_answers_are_there_once_with_the_completion_first():
    row = {"prompt": "p", "completion": "b", "references": ["a", "b", "c"]}
    assert only(row).answers == ("b", "a", "c")
    assert as_conversation(only(row)).answers == ("b", "a", "c")
    assert only({"text": "t"}).answers == ()


def test_references_belong_to_scoring_so_training_rows_may_lack_them():
    row = {"prompt": "p", "completion": "c"}
    assert only(row, references="others").answers == ("c",)
    with pytest.raises(DataError, match=r"row 1 of the test part has no column 'others'.*Set data\.references"):
        only(row, references="others", part="test")


def test_owners_come_along_and_parts_can_be_taken():
    rows = [{"text": str(number), "who": number % 2} for number in range(4)]
    dialogues = read(*rows, group="who")
    assert dialogues.groups == ("0", "1", "0", "1")
    some = dialogues.take(numpy.array([3, 0]))
    assert (some.examples, some.groups) == ((PlainText("3"), PlainText("0")), ("1", "0"))


HUMAN = {"from": "human", "value": "x"}


@pytest.mark.parametrize(
    ("row", "layout", "sentence"),
    [
        ({"a": 1, "b": 2}, {}, "'a', 'b', which fit no format of examples"),
        ({"prompt": "p"}, {}, "'prompt', which fit no format of examples"),
        ({"prompt": "p"}, {"format": "prompt-completion"}, "row 1 of the train part has no column 'completion'"),
        ({"prompt": "p", "completion": None}, {}, "has no column 'completion'; it has 'prompt', 'completion'"),
        ({"prompt": "p", "completion": " \n"}, {}, "an empty 'completion', from which nothing can be learned"),
        ({"prompt": "", "completion": "c"}, {}, "an empty 'prompt', which should say what is asked"),
        ({"prompt": TALK, "completion": "c"}, {}, "a list in the column 'prompt', expected text"),
        ({"text": " "}, {}, "an empty 'text'"),
        ({"text": "half \ud83d"}, {}, r"column 'text', holds '\\ud83d', half of a character"),
        ({"prompt": "p", "completion": "c", "references": [1]}, {}, r"[1] in the column 'references'"),
        ({"prompt": "p", "completion": "c", "references": [""]}, {}, "an empty text in the column 'references'"),
        ({"instruction": "i", "output": "o"}, {"context": "more"}, "no column 'more'"),
        ({"messages": []}, {}, "[] in the column 'messages', expected a list of messages"),
        ({"messages": "[{...}]"}, {}, "expected a list of messages"),
        ({"messages": [{"role": "user"}]}, {}, "message 1 is {'role': 'user'}, expected 'role' and a text"),
        ({"messages": [HUMAN]}, {}, "'messages' (role, content) or 'sharegpt' (from, value)"),
        ({"conversations": [{"from": "bot", "value": "x"}]}, {}, "unknown role 'bot'; expected one of human, gpt"),
        ({"conversations": [HUMAN]}, {}, "the last message is of role 'user', expected the assistant's"),
        ({"messages": [*TALK, {"role": "assistant", "content": ""}]}, {}, "message 3 of the assistant is empty"),
        ({"messages": TALK[1:]}, {}, "the assistant's message answers nothing"),
        ({"messages": [{"role": "user", "content": "\udc00"}, TALK[1]]}, {}, "half of a character"),
    ],
)
def test_a_row_that_holds_no_example_is_told_in_one_sentence(row, layout, sentence):
    with pytest.raises(DataError, match=re.escape(sentence).replace(r"\\\\", r"\\")) as caught:
        read(row, **layout)
    assert str(caught.value).endswith(".")
    str(caught.value).encode()


def test_the_row_at_fault_is_named():
    with pytest.raises(DataError, match="row 2 of the train part"):
        read({"text": "good"}, {"text": ""})
    with pytest.raises(DataError, match="row 2 of the train part has an empty 'who'"):
        read({"text": "a", "who": "x"}, {"text": "b", "who": " "}, group="who")


def test_no_rows():
    with pytest.raises(DataError, match="the test part has no examples"):
        read(part="test")
