# SPDX-License-Identifier: Apache-2.0
"""Examples of language modelling from the rows of a table, in the layouts that data sets come in."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from fedlora.errors import DataError
from fedlora.training.data.cells import names, shown
from fedlora.training.data.choice_rows import choices_of, require_right_one
from fedlora.training.data.dialogues import Completion, Conversation, Dialogues, Example, Message, PlainText, Role
from fedlora.training.data.labelled import require_whole
from fedlora.training.data.tables import Part, Rows

Format = Literal["auto", "text", "prompt-completion", "question-answer", "alpaca", "messages", "sharegpt"]


@dataclass(frozen=True)
class Layout:
    """How the rows of a table hold the examples."""

    format: Format = "auto"
    """auto: found by the columns; text: a plain text; prompt-completion; question-answer: as gsm8k has it; alpaca:
    instruction, input and output; messages: a list of role and content; sharegpt: conversations of from and value."""
    text: str = "text"
    """text: the column with the text."""
    prompt: str | None = None
    """The column with the prompt; by default prompt, question or instruction, as the format calls it."""
    completion: str | None = None
    """The column with what is to be learned; by default completion, answer or output, as the format calls it."""
    context: str | None = None
    """alpaca: the column whose text follows the instruction, where it has any; by default input."""
    messages: str | None = None
    """The column with the conversation; by default messages or conversations, as the format calls it."""
    references: str | None = None
    """The column with a list of further right answers, for scoring; by default references where there is such a
    column."""
    choices: str | None = None
    """The column with the texts among which a model chooses, the right answer among them; test rows must have it. None:
    nobody chooses, and no such column is read."""


_PAIRS: Final[Mapping[str, tuple[str, str]]] = {
    "prompt-completion": ("prompt", "completion"),
    "question-answer": ("question", "answer"),
    "alpaca": ("instruction", "output"),
}
"""What prompt and completion are called in each format that has them."""
_LISTS: Final[Mapping[str, tuple[str, str, str]]] = {
    "messages": ("messages", "role", "content"),
    "sharegpt": ("conversations", "from", "value"),
}
"""What the list of messages, a message's role and its text are called."""
BY_COLUMNS: Final[Sequence[tuple[Format, tuple[str, ...]]]] = (
    ("messages", ("messages",)),
    ("sharegpt", ("conversations",)),
    ("alpaca", ("instruction", "output")),
    ("prompt-completion", ("prompt", "completion")),
    ("question-answer", ("question", "answer")),
)
"""The columns by which a format is found, the first that are all there."""
_ROLES: Final[Mapping[str, Role]] = {
    "human": "user",
    "gpt": "assistant",
    "system": "system",
    "user": "user",
    "assistant": "assistant",
}


@dataclass(frozen=True, slots=True)
class _Place:
    """A row, for error sentences."""

    origin: str
    part: Part
    number: int

    def __str__(self) -> str:
        return f"{self.origin}: row {self.number} of the {self.part} part"


def dialogues_from_rows(rows: Rows, layout: Layout, part: Part, origin: str, group: str | None = None) -> Dialogues:
    """The examples of a table.

    Args:
        rows: of the table.
        layout: how they hold the examples.
        part: whether they are for training or for testing; a column of references that is named must be in the test
            part.
        origin: where the rows come from, for error sentences.
        group: the column that says whose an example is.

    Raises:
        DataError: with the row, the column and the value, and what to do.
    """
    if not rows:
        raise DataError(f"{origin}: the {part} part has no examples.")
    read = _reader(layout, rows[0], part, origin)
    examples, groups = [], []
    for number, row in enumerate(rows, start=1):
        place = _Place(origin, part, number)
        examples.append(read(row, place))
        if group is not None:
            groups.append(_filled(row, group, place, "split.column", "which should say whose the example is"))
    return Dialogues(tuple(examples), tuple(groups) if group is not None else None)


def found_format(row: Mapping[str, object], layout: Layout, origin: str) -> Format:
    """The format that a layout names, or that the columns of a row tell.

    Raises:
        DataError: the columns fit no format.
    """
    if layout.format != "auto":
        return layout.format
    if layout.messages is not None:
        return "messages"
    if layout.context is not None:
        return "alpaca"
    if layout.prompt is not None or layout.completion is not None:
        return "prompt-completion"
    for name, columns in BY_COLUMNS:
        if all(column in row for column in columns):
            return name
    if layout.text in row:
        return "text"
    known = "; ".join(" and ".join(columns) for _, columns in BY_COLUMNS)
    raise DataError(
        f"{origin} has the columns {names(row)}, which fit no format of examples: expected {known}; or "
        f"{layout.text}. Name the columns in data.prompt and data.completion, data.messages or data.text."
    )


_Reader = Callable[[Mapping[str, object], _Place], Example]


def _reader(layout: Layout, first: Mapping[str, object], part: Part, origin: str) -> _Reader:
    """The function from a row to its example."""
    kind = found_format(first, layout, origin)
    must_have_references = layout.references is not None and part == "test"
    references = layout.references or "references"

    def answers(row: Mapping[str, object], place: _Place) -> tuple[str, ...]:
        return _references(row, references, place) if must_have_references or references in row else ()

    def choices(row: Mapping[str, object], right: str, place: _Place) -> tuple[str, ...]:
        column = layout.choices
        if column is None or (part == "train" and row.get(column) is None):
            return ()
        found = choices_of(row, column, str(place))
        require_right_one(found, right, column, str(place))
        return found

    def text(row: Mapping[str, object], place: _Place) -> Example:
        return PlainText(_filled(row, layout.text, place, "data.text", "from which nothing can be learned"))

    def pair(row: Mapping[str, object], place: _Place) -> Example:
        prompt_column, completion_column = _PAIRS[kind]
        prompt = _filled(row, layout.prompt or prompt_column, place, "data.prompt", "which should say what is asked")
        if kind == "alpaca":
            context = layout.context or "input"
            given = _text(row, context, place, "data.context") if row.get(context) or layout.context else ""
            prompt = f"{prompt}\n\n{given}" if given.strip() else prompt
        completion = layout.completion or completion_column
        wanted = _filled(row, completion, place, "data.completion", "from which nothing can be learned")
        return Completion(prompt, wanted, answers(row, place), choices(row, wanted, place))

    def conversation(row: Mapping[str, object], place: _Place) -> Example:
        column, role, content = _LISTS[kind]
        messages = _messages(row, layout.messages or column, role, content, place)
        return Conversation(messages, answers(row, place), choices(row, messages[-1].content, place))

    return text if kind == "text" else pair if kind in _PAIRS else conversation


def _messages(
    row: Mapping[str, object], column: str, role_key: str, content_key: str, place: _Place
) -> tuple[Message, ...]:
    given = _present(row, column, place, "data.messages")
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise DataError(
            f"{place} has {shown(given)} in the column {column!r}, expected a list of messages, each with "
            f"{role_key!r} and {content_key!r}: mend the row or leave it out."
        )
    messages = []
    for number, turn in enumerate(given, start=1):
        where = f"{place}, column {column!r}, message {number}"
        if not isinstance(turn, Mapping) or role_key not in turn or not isinstance(turn.get(content_key), str):
            raise DataError(
                f"{where} is {shown(turn)}, expected {role_key!r} and a text as {content_key!r}: mend it, or set "
                f"data.format to 'messages' (role, content) or 'sharegpt' (from, value), whichever the data have."
            )
        name, content = turn[role_key], turn[content_key]
        role = _ROLES.get(name) if isinstance(name, str) else None
        if role is None:
            raise DataError(
                f"{where} has the unknown role {shown(name)}; expected one of {', '.join(_ROLES)}: rename it, or "
                f"leave the row out."
            )
        require_whole(content, where)
        if role == "assistant" and not content.strip():
            raise DataError(f"{where} of the assistant is empty, so that nothing can be learned: leave the row out.")
        messages.append(Message(role, content))
    if messages[-1].role != "assistant":
        raise DataError(
            f"{place}, column {column!r}: the last message is of role {messages[-1].role!r}, expected the assistant's, "
            f"from which the model learns: cut the conversation after an answer, or leave the row out."
        )
    if len(messages) == 1:
        raise DataError(
            f"{place}, column {column!r}: the assistant's message answers nothing: put the user's before it, or set "
            f"data.format = 'text' for texts without a prompt."
        )
    return tuple(messages)


def _references(row: Mapping[str, object], column: str, place: _Place) -> tuple[str, ...]:
    given = _present(row, column, place, "data.references")
    listed = [given] if isinstance(given, str) else given
    if not isinstance(listed, Sequence) or not all(isinstance(text, str) for text in listed):
        raise DataError(
            f"{place} has {shown(given)} in the column {column!r}, expected a text or a list of texts that count as "
            f"right answers: mend it, or name another column in data.references."
        )
    for text in listed:
        require_whole(text, f"{place}, column {column!r},")
        if not text.strip():
            raise DataError(f"{place} has an empty text in the column {column!r} of right answers: leave it out.")
    return tuple(listed)


def _present(row: Mapping[str, object], column: str, place: _Place, key: str) -> object:
    if row.get(column) is None:
        raise DataError(f"{place} has no column {column!r}; it has {names(row)}. Set {key} to one of these.")
    return row[column]


def _text(row: Mapping[str, object], column: str, place: _Place, key: str) -> str:
    value = _present(row, column, place, key)
    if not isinstance(value, str | int | float):
        raise DataError(
            f"{place} has a {type(value).__name__} in the column {column!r}, expected text: set {key} to a column of "
            f"texts, or data.messages to one of conversations."
        )
    text = str(value)
    require_whole(text, f"{place}, column {column!r},")
    return text


def _filled(row: Mapping[str, object], column: str, place: _Place, key: str, why: str) -> str:
    text = _text(row, column, place, key)
    if not text.strip():
        raise DataError(f"{place} has an empty {column!r}, {why}: fill it in, or leave the row out.")
    return text
