# SPDX-License-Identifier: Apache-2.0
"""From an example to token ids, for training, evaluation and generation alike.

There is one way from an example to ids. The text up to the last answer is tokenised without the answer, as generation
has to; the answer follows as it is tokenised behind that text, or by itself where both would share a token. So the ids
before an answer are the same wherever they are needed. The token that ends an answer is learned, and none is kept
behind it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy
from numpy.typing import NDArray

from fedlora.errors import DataError, ModelError
from fedlora.training.data.dialogues import Completion, Conversation, Example, Message, PlainText, as_conversation
from fedlora.training.encoding.chat_template import (
    ChatTemplate,
    Passage,
    Turns,
    chat_template,
    prompt_passage,
    training_passage,
)
from fedlora.training.encoding.cutting import Rendered, Segment, Truncate, cut

Prompt = str | tuple[Message, ...]
"""What a generation is to follow: a text, or messages."""


@dataclass(frozen=True)
class RenderSettings:
    """How examples become token ids."""

    style: Literal["auto", "chat"] = "auto"
    """auto: conversations by the tokenizer's chat template, prompts and completions joined as they are; chat: prompts
    and completions by the chat template too, as the user's and the assistant's message."""
    separator: str = "\n"
    """Stands between prompt and completion without a chat template, unless the prompt ends in white space."""
    turns: Turns = "all"
    """all: every message of the assistant is learned; last: the last one alone."""
    truncate: Truncate = "prompt_start"
    """What too long an example loses. prompt_start: the beginning of what precedes the last answer, and only when
    nothing of it is left the answer's end; end: its end."""
    end: str | None = None
    """The token that ends an answer; by default the one of the chat template, or the tokenizer's eos_token."""


@dataclass(frozen=True, slots=True, eq=False)
class Renderer:
    """All that turns examples into ids."""

    tokenizer: Any
    name: str
    """Of the base."""
    settings: RenderSettings
    max_length: int
    leading: tuple[int, ...]
    """Ids that the tokenizer puts before every text, such as bos."""
    end: int
    """The id that ends an answer without a chat template."""
    template: ChatTemplate | None

    @property
    def stops(self) -> tuple[int, ...]:
        """The ids at which a generation ends."""
        turn = [] if self.template is None else _ids(self.tokenizer, self.template.end)
        return tuple(dict.fromkeys((*turn, self.end)))


def make_renderer(
    examples: Iterable[Example | Prompt], tokenizer: Any, name: str, max_length: int, settings: RenderSettings
) -> Renderer:
    """The renderer of a tokenizer, fit for some examples.

    Args:
        examples: what is to be rendered; a chat template is needed where conversations are among them.
        tokenizer: of the base.
        name: of the base, for error sentences.
        max_length: tokens after which an example is cut.
        settings: how.

    Raises:
        ModelError: a chat template is needed and not usable, or there is no end-of-text token.
    """
    chat = settings.style == "chat" or any(isinstance(example, Conversation | tuple) for example in examples)
    template = chat_template(tokenizer, name, settings.end) if chat else None
    end = settings.end or tokenizer.eos_token or (None if template is None else template.end)
    if end is None:
        raise ModelError(
            f"The tokenizer of model.base {name!r} has no end-of-text token (eos_token), so that a model would never "
            f"learn to stop: name one of its special tokens in data.end."
        )
    known = _ids(tokenizer, end)
    if len(known) != 1 or known[0] == getattr(tokenizer, "unk_token_id", None):
        raise ModelError(
            f"The end-of-text token {end!r} is no token of the tokenizer of model.base {name!r}, which reads it as "
            f"{len(known)} tokens: name one of its special tokens in data.end, such as {tokenizer.eos_token!r}."
        )
    return Renderer(tokenizer, name, settings, max_length, _leading(tokenizer), known[0], template)


def require_vocabulary(tokenizer: Any, vectors: int | None, name: str) -> None:
    """Refuse a base that has fewer vectors than its tokenizer has tokens.

    Raises:
        ModelError: with both numbers.
    """
    tokens = 1 + max(tokenizer.get_vocab().values())
    if vectors is not None and tokens > vectors:
        raise ModelError(
            f"The tokenizer of model.base {name!r} has {tokens} tokens, but its weights have only {vectors}: the "
            f"tokenizer is another model's, or tokens were added to it; put the right tokenizer's files into the "
            f"folder, or enlarge the model with resize_token_embeddings({tokens}) and save it."
        )


def render(examples: Sequence[Example], renderer: Renderer, first: int = 0) -> list[Rendered]:
    """Examples as ids with what is learned of them, cut at the renderer's length.

    Args:
        examples: to render.
        renderer: of the base.
        first: the number of the first of them, for error sentences.

    Raises:
        DataError, ModelError: a conversation that the chat template cannot take; see `training_passage`.
    """
    passages = [_passage(example, renderer, f"Example {n}") for n, example in enumerate(examples, start=first + 1)]
    segments = [
        _completed(each, example, renderer)
        for each, example in zip(_segments(passages, renderer), examples, strict=True)
    ]
    return [cut(each, renderer.max_length, renderer.settings.truncate, renderer.tokenizer) for each in segments]


def prompt_of(example: Example) -> Prompt:
    """What precedes the answer; of a plain text, all of it."""
    match example:
        case Completion(prompt=prompt):
            return prompt
        case Conversation(messages=messages):
            return messages[:-1]
        case PlainText(text=text):
            return text


def prompt_ids(prompt: Prompt, renderer: Renderer) -> NDArray[numpy.int32]:
    """The ids that a generation follows: those which precede the answer in training, never cut.

    Raises:
        DataError: they leave no room for an answer, or the chat template cannot take the messages.
    """
    if renderer.template is None and isinstance(prompt, str):
        ids = (*renderer.leading, *_ids(renderer.tokenizer, _before(prompt, renderer)))
    else:
        messages = (Message("user", prompt),) if isinstance(prompt, str) else prompt
        passage = prompt_passage(messages, _template(renderer), "last", "The prompt")
        ids = tuple(_ids(renderer.tokenizer, passage.before))
    if len(ids) >= renderer.max_length:
        raise DataError(
            f"The prompt has {len(ids)} tokens, but model.max_length is {renderer.max_length}, which leaves no room "
            f"for an answer: shorten the prompt, or raise model.max_length as far as the base allows."
        )
    return numpy.array(ids, dtype=numpy.int32)


def _template(renderer: Renderer) -> ChatTemplate:
    return renderer.template or chat_template(renderer.tokenizer, renderer.name, renderer.settings.end)


def _before(prompt: str, renderer: Renderer) -> str:
    """A prompt as a completion follows it."""
    return prompt if prompt[-1:].isspace() else prompt + renderer.settings.separator


def _by_template(example: Example, renderer: Renderer) -> bool:
    return isinstance(example, Conversation) or (isinstance(example, Completion) and renderer.template is not None)


def _passage(example: Example, renderer: Renderer, where: str) -> Passage:
    if isinstance(example, PlainText):
        return Passage("", example.text)
    if isinstance(example, Completion) and not _by_template(example, renderer):
        return Passage(_before(example.prompt, renderer), example.completion)
    conversation = as_conversation(example) if isinstance(example, Completion) else example
    return training_passage(conversation.messages, _template(renderer), renderer.settings.turns, where)


def _segments(passages: Sequence[Passage], renderer: Renderer) -> list[list[Segment]]:
    """What precedes the answer of each passage, cut where earlier answers begin and end; and the answer."""
    tokenizer = renderer.tokenizer
    befores = _encoded(tokenizer, [passage.before for passage in passages])
    wholes = _encoded(tokenizer, [passage.before + passage.answer for passage in passages])
    found = []
    for passage, before, whole in zip(passages, befores, wholes, strict=True):
        follows = whole[: len(before)] == before
        answer = whole[len(before) :] if follows else _ids(tokenizer, passage.answer)
        segments = _earlier(passage, before, renderer) if passage.earlier else [Segment("", tuple(before), False)]
        found.append([*segments, Segment(passage.answer, tuple(answer), True)])
    return found


def _earlier(passage: Passage, ids: list[int], renderer: Renderer) -> list[Segment]:
    """The tokens before an answer, cut where earlier answers begin and end; a token across a border is not learned."""
    if not renderer.tokenizer.is_fast:
        raise ModelError(
            f"The tokenizer of model.base {renderer.name!r} does not tell where in a text its tokens are, so that "
            f"earlier answers cannot be told apart: set data.turns = 'last' to learn the last answer alone."
        )
    offsets = renderer.tokenizer(passage.before, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    begins, stops = numpy.array(offsets["offset_mapping"]).T
    segments, at = [], 0
    for begin, stop in passage.earlier:
        inside = numpy.flatnonzero((begins >= begin) & (stops <= stop) & (stops > begins))
        first, last = (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (at, at)
        segments += [
            Segment("", tuple(ids[at:first]), False),
            Segment(passage.before[begin:stop], tuple(ids[first:last]), True),
        ]
        at = last
    return [*segments, Segment("", tuple(ids[at:]), False)]


def _completed(segments: Sequence[Segment], example: Example, renderer: Renderer) -> list[Segment]:
    """With what a tokenizer puts before a text and the token that ends it, where no template writes both."""
    if _by_template(example, renderer):
        end = "" if renderer.template is None else renderer.template.end
        return [replace(segment, text=segment.text.removesuffix(end)) for segment in segments]
    last = segments[-1]
    if last.ids[-1:] != (renderer.end,):
        last = replace(last, ids=(*last.ids, renderer.end))
    return [Segment("", renderer.leading, False), *segments[:-1], last]


def _leading(tokenizer: Any) -> tuple[int, ...]:
    """What a tokenizer puts before a text: bos, where it does so by itself."""
    plain = _ids(tokenizer, "a")
    with_special = list(tokenizer("a")["input_ids"])
    for count in range(len(with_special) - len(plain) + 1):
        if with_special[count : count + len(plain)] == plain:
            return tuple(with_special[:count])
    return ()


def _encoded(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    if not texts:
        return []
    encoded = tokenizer(
        texts, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False, verbose=False
    )
    return list(encoded["input_ids"])


def _ids(tokenizer: Any, text: str) -> list[int]:
    return _encoded(tokenizer, [text])[0]
