# SPDX-License-Identifier: Apache-2.0
"""Conversations as texts by a tokenizer's chat template: what the model is given, and what it learns of them.

Where an answer begins and ends is taken from the template's own marks (`{% generation %}`), or, where it has none, by
rendering the conversation up to before and up to behind the answer; what cannot be verified is refused. Training puts
the answer behind the very text that generation is given as prompt.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from fedlora.errors import DataError, ModelError
from fedlora.training.data.dialogues import Message

Turns = Literal["all", "last"]
"""Which of the assistant's messages are learned."""

_MARK: Final = re.compile(r"\{%(-?)\s*(end)?generation\s*(-?)%\}")
_BEGIN, _END = "\ue000[answer\ue001", "\ue000answer]\ue001"
"""In the place of a template's marks while spans are looked for; in no other text."""
_ARGUMENTS: Final = {"enable_thinking": False}
"""Given to every template: those of reasoning models then put an empty reasoning part into the prompt."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A text that ends in an answer, or (without one) that an answer is to follow."""

    before: str
    """What precedes the last answer."""
    answer: str = ""
    """The last answer, with its end token where a template writes one."""
    earlier: tuple[tuple[int, int], ...] = ()
    """Where earlier answers begin and end in `before`, of those that are learned."""


@dataclass(frozen=True, slots=True, eq=False)
class ChatTemplate:
    """A tokenizer's chat template, and the token that ends the assistant's messages."""

    tokenizer: Any
    name: str
    """Of the base, for error sentences."""
    source: str
    end: str
    """The end-of-turn token, as text."""


def chat_template(tokenizer: Any, name: str, end: str | None = None) -> ChatTemplate:
    """The template of a tokenizer.

    Args:
        tokenizer: of the base.
        name: of the base.
        end: the token that ends an answer; None: the first special token that the template writes after one.

    Raises:
        ModelError: there is no template, it cannot be rendered, or it never ends an answer with (this) special token.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ModelError(
            f"The data have conversations, but the tokenizer of model.base {name!r} has no chat template: choose the "
            f"instruction-tuned variant of the base, put a chat_template.jinja into its folder, or use data of prompts "
            f"and completions."
        )
    source = str(tokenizer.get_chat_template())
    without_end = ChatTemplate(tokenizer, name, source, "")
    tail = _tail(without_end)
    added = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
    found = [number for number in _ids(tokenizer, tail) if number in added.values()]
    if not found:
        raise ModelError(
            f"The chat template of model.base {name!r} writes {tail!r} after an answer, which holds no special token, "
            f"so that a model would never learn to end one: let the template write eos_token "
            f"({tokenizer.eos_token!r}) there."
        )
    if end is not None and added.get(end) not in found:
        raise ModelError(
            f"data.end is {end!r}, which the chat template of model.base {name!r} does not write after an answer; it "
            f"writes {tail!r}: leave data.end out, or name a special token of these."
        )
    return ChatTemplate(tokenizer, name, source, end or str(tokenizer.added_tokens_decoder[found[0]].content))


def prompt_passage(
    messages: Sequence[Message], template: ChatTemplate, turns: Turns = "all", where: str = "A conversation"
) -> Passage:
    """The messages before an answer, up to where the answer begins.

    Args:
        messages: those before the answer.
        template: of the base.
        turns: whether earlier messages of the assistant are learned.
        where: the conversation, for error sentences.

    Raises:
        DataError: the template refuses the messages.
        ModelError: it does not tell where the assistant's earlier messages are.
    """
    text = _rendered(messages, template, where, answer_follows=True)
    spans = _spans(messages, text, template, where) if turns == "all" else []
    return Passage(text, earlier=tuple(spans))


def training_passage(
    messages: Sequence[Message], template: ChatTemplate, turns: Turns = "all", where: str = "A conversation"
) -> Passage:
    """A conversation up to the token that ends its last message, which is the assistant's.

    What precedes the answer is what `prompt_passage` gives for the messages before.

    Raises:
        DataError, ModelError: as `prompt_passage`, or what precedes the answer is not what generation is given.
    """
    prompt = prompt_passage(messages[:-1], template, turns, where)
    text, before = _rendered(messages, template, where), prompt.before
    begin, stop = _last_span(messages, text, before, template, where)
    if not text.startswith(before) or begin > len(before):
        told = text[: len(before)] if not text.startswith(before) else text[:begin]
        raise ModelError(
            f"The chat template of model.base {template.name!r} ends the prompt of a generation with "
            f"{before[-40:]!r}, but before an answer in training stands {told[-40:]!r}, so that a model would be asked "
            f"what it was never taught: mend the template's add_generation_prompt."
        )
    return replace(prompt, answer=text[len(before) : _ended(text, len(before), stop, template)])


def _spans(messages: Sequence[Message], text: str, template: ChatTemplate, where: str) -> list[tuple[int, int]]:
    """Where the assistant's messages stand in a text that an answer follows, each up to its end token."""
    answers = [index for index, message in enumerate(messages) if message.role == "assistant"]
    if not answers:
        return []
    if not _MARK.search(template.source):
        return [_span_between(messages[: index + 1], text, template, where) for index in answers]
    spans = _marked_spans(messages, text, template, where, answer_follows=True)
    if len(spans) == len(answers):  # some templates mark the heading too, which generation is given
        befores = [_rendered(messages[:index], template, where, answer_follows=True) for index in answers]
        spans = [
            (max(begin, len(before)) if text.startswith(before) else begin, stop)
            for (begin, stop), before in zip(spans, befores, strict=True)
        ]
    return [(begin, _ended(text, begin, stop, template)) for begin, stop in spans]


def _last_span(
    messages: Sequence[Message], text: str, prompt: str, template: ChatTemplate, where: str
) -> tuple[int, int]:
    """Where the last answer begins (as far as the template tells) and where its part of the text ends."""
    if not _MARK.search(template.source):
        _require_answer(text[len(prompt) :], messages[-1], template)
        return len(prompt), len(text)
    spans = _marked_spans(messages, text, template, where)
    if not spans or spans[-1][0] == spans[-1][1]:
        raise ModelError(
            f"The chat template of model.base {template.name!r} has {{% generation %}}, but marks nothing of the last "
            f"answer, so that there would be nothing to learn: put the marks around the assistant's messages."
        )
    return spans[-1]


def _span_between(messages: Sequence[Message], text: str, template: ChatTemplate, where: str) -> tuple[int, int]:
    """The last of some messages by rendering up to before and up to behind it."""
    before = _rendered(messages[:-1], template, where, answer_follows=True) if len(messages) > 1 else ""
    behind = _rendered(messages, template, where)
    behind = behind[: _ended(behind, len(before), len(behind), template)]  # some end a whole text in their own way
    if not before or not (text.startswith(behind) and behind.startswith(before)):
        raise ModelError(
            f"The chat template of model.base {template.name!r} renders earlier messages differently where others "
            f"follow, so that the assistant's cannot be told apart: set data.turns = 'last' to learn the last answer "
            f"alone, or put {{% generation %}} marks into the template."
        )
    _require_answer(behind[len(before) :], messages[-1], template)
    return len(before), len(behind)


def _require_answer(span: str, message: Message, template: ChatTemplate) -> None:
    """What follows a prompt must be the answer itself, not a heading that the prompt should have ended with."""
    if not span.lstrip().startswith(message.content.strip()):
        raise ModelError(
            f"The chat template of model.base {template.name!r} puts {span[:40]!r} where an answer should begin with "
            f"{message.content.strip()[:40]!r}, so that the answer cannot be told apart: mend the template's "
            f"add_generation_prompt, or put {{% generation %}} marks into it."
        )


def _marked_spans(
    messages: Sequence[Message], text: str, template: ChatTemplate, where: str, *, answer_follows: bool = False
) -> list[tuple[int, int]]:
    """Between the template's marks: the same template with texts of ours in their place."""

    def stand_in(mark: re.Match[str]) -> str:  # between two tags of a block, since blocks trim the lines around them
        shown = _END if mark[2] else _BEGIN
        return f"{{%{mark[1]} if true %}}{{{{ {shown!r} }}}}{{% endif {mark[3]}%}}"

    source = _MARK.sub(stand_in, template.source)
    marked = ChatTemplate(template.tokenizer, template.name, source, template.end)
    shown = _rendered(messages, marked, where, answer_follows=answer_follows)
    spans, bare, begin = [], "", None
    for part in re.split(f"({re.escape(_BEGIN)}|{re.escape(_END)})", shown):
        if part == _BEGIN:
            begin = len(bare)
        elif part == _END and begin is not None:
            spans.append((begin, len(bare)))
        else:
            bare += part
    if bare != text:
        raise ModelError(
            f"The {{% generation %}} marks in the chat template of model.base {template.name!r} stand where they "
            f"change the text: put each pair directly around what the assistant writes."
        )
    return [(begin, stop) for begin, stop in spans if stop > begin]


def _ended(text: str, begin: int, stop: int, template: ChatTemplate) -> int:
    """Where a span ends with its end token, also where the marks leave it out; what follows is not learned."""
    inside = text.rfind(template.end, begin, stop)
    if inside >= 0:
        return inside + len(template.end)
    if text.startswith(template.end, stop):
        return stop + len(template.end)
    raise ModelError(
        f"The chat template of model.base {template.name!r} does not end every answer with {template.end!r} "
        f"(after one it writes {text[stop : stop + 20]!r}), so that a model would not learn to end it: set "
        f"data.turns = 'last', or mend the template."
    )


def _tail(template: ChatTemplate) -> str:
    """What a template writes after an answer."""
    answer = "forty-two"
    text = _rendered((Message("user", "six times seven"), Message("assistant", answer)), template, "A trial")
    return text.rpartition(answer)[2]


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []


def _rendered(messages: Sequence[Message], template: ChatTemplate, where: str, *, answer_follows: bool = False) -> str:
    turns = [{"role": message.role, "content": message.content} for message in messages]
    try:
        return str(
            template.tokenizer.apply_chat_template(
                turns,
                chat_template=template.source,
                add_generation_prompt=answer_follows,
                tokenize=False,
                **_ARGUMENTS,
            )
        )
    except Exception as error:  # a template may raise whatever it likes
        roles = ", ".join(message.role for message in messages)
        raise DataError(
            f"{where} of the roles {roles} is refused by the chat template of model.base {template.name!r} "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__}): change the roles or their "
            f"order, or leave it out."
        ) from error
