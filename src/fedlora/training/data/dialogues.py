# SPDX-License-Identifier: Apache-2.0
"""Examples of language modelling: plain texts, prompts with completions, conversations."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy
from numpy.typing import NDArray

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class PlainText:
    """A text to be learned from its first to its last token."""

    text: str

    @property
    def answers(self) -> tuple[str, ...]:
        """None: a plain text answers nothing."""
        return ()


@dataclass(frozen=True, slots=True)
class Completion:
    """A prompt, and the completion to be learned."""

    prompt: str
    completion: str
    references: tuple[str, ...] = ()
    """Further texts that count as right when answers are scored."""
    choices: tuple[str, ...] = ()
    """The texts among which a model chooses its answer, the completion among them; empty: nothing is to be chosen."""

    @property
    def answers(self) -> tuple[str, ...]:
        """All texts that count as right, each once, the completion first."""
        return tuple(dict.fromkeys((self.completion, *self.references)))


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages, the last of the assistant. All of the assistant's messages are to be learned."""

    messages: tuple[Message, ...]
    references: tuple[str, ...] = ()
    """Further texts that count as right in place of the last message."""
    choices: tuple[str, ...] = ()
    """The texts among which a model chooses the last message, that message among them; empty: nothing is to be
    chosen."""

    @property
    def answers(self) -> tuple[str, ...]:
        """All texts that count as right as the last message, each once, that message first."""
        return tuple(dict.fromkeys((self.messages[-1].content, *self.references)))


Example = PlainText | Completion | Conversation
"""One example of language modelling."""


def as_conversation(example: Completion) -> Conversation:
    """A prompt as the user's message, its completion as the assistant's."""
    messages = Message("user", example.prompt), Message("assistant", example.completion)
    return Conversation(messages, example.references, example.choices)


@dataclass(frozen=True, slots=True, eq=False)
class Dialogues:
    """Examples of language modelling in a fixed order."""

    examples: tuple[Example, ...]
    groups: tuple[str, ...] | None = None
    """Of each example, whose it is by nature (a column of the data)."""
    kinds: NDArray[numpy.int64] | None = None
    """Of each example, the number of its kind, by which examples can be dealt to clients as by a label."""

    def __len__(self) -> int:
        return len(self.examples)

    def __repr__(self) -> str:
        return f"Dialogues({len(self):,} examples)"

    def take(self, indices: NDArray[numpy.int64]) -> "Dialogues":
        """Some of the examples."""
        groups = None if self.groups is None else tuple(self.groups[i] for i in indices)
        kinds = None if self.kinds is None else self.kinds[indices]
        return Dialogues(tuple(self.examples[i] for i in indices), groups, kinds)

    def owned_by(self, name: str) -> "Dialogues":
        """The same examples, all of one owner."""
        return replace(self, groups=(name,) * len(self))

    @property
    def labels(self) -> NDArray[numpy.int64]:
        """The kinds; all 0 where the data name none."""
        return numpy.zeros(len(self), dtype=numpy.int64) if self.kinds is None else self.kinds
