# SPDX-License-Identifier: Apache-2.0
"""Examples of language modelling in a table: which format it has, and what a first config for it sets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fedlora.app.config.commented import Values
from fedlora.app.config.initialise import (
    long_tokens,
    owner_lines,
    possible_owners,
    require_columns,
    room,
    some_clients,
    text_column,
)
from fedlora.errors import DataError
from fedlora.training.data.dialogue_rows import BY_COLUMNS, Format, Layout, dialogues_from_rows, found_format
from fedlora.training.data.dialogues import Completion, Conversation, Example, PlainText
from fedlora.training.data.tables import Rows

_MOST_TOKENS: Final = 1024
_PLAIN, _CHAT = "HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M-Instruct"
"""Small decoders of the hub, without and with a chat template."""
_MEANING: Final[Mapping[Format, str]] = {
    "text": "plain texts",
    "prompt-completion": "prompts with completions",
    "question-answer": "questions with answers",
    "alpaca": "instructions with outputs",
    "messages": "conversations (role and content)",
    "sharegpt": "conversations (from and value)",
}


@dataclass(frozen=True, slots=True)
class FoundDialogues:
    """What a table seems to hold."""

    rows: int
    format: Format
    columns: Mapping[str, str]
    """Keys of [data] that differ from their defaults, with the columns that they name."""
    kind: str | None
    """The column with the kind of an example, where the caller named it."""
    kinds: int
    owners: Mapping[str, int]
    """Columns that could say whose an example is, with how many values."""
    tokens: int
    """A guess at the tokens of a long example (the 95th percentile)."""
    references: bool
    """Whether there is a column of further right answers."""
    owner: str | None = None
    """The column that says whose an example is, where the caller named it."""
    choices: bool = False
    """Whether there is a column of texts to choose among."""

    def values(self, path: Path) -> Values:
        """What a first config sets.

        Args:
            path: of the data, as the config's folder sees it.
        """
        split: dict[str, Any] = {"kind": "iid", "clients": some_clients(self.rows)}
        if self.owner is not None:
            split = {"kind": "natural", "column": self.owner}
        elif self.kind is not None:
            split = {"kind": "dirichlet", "clients": some_clients(self.rows), "alpha": 0.5}
        label = {} if self.kind is None else {"label": self.kind}
        talk = self.format in ("messages", "sharegpt")
        return {
            "run": {"name": path.stem.partition(".")[0], "rounds": 20},
            "data": {"source": "files", "path": str(path), "format": self.format, **self.columns, **label},
            "split": {**split, "validation": 0.1},
            "model": {
                "task": "generate",
                "base": _CHAT if talk else _PLAIN,
                "max_length": room(self.tokens, _MOST_TOKENS),
            },
            "adapter": {"rank": 8},
            "train": {"epochs": 1, "lr": 5e-4},
            "method": {"name": "lora-a2"},
            "evaluate": {"every": 2},
        }

    def heading(self, path: Path) -> list[str]:
        """What was found, in lines for the top of the config."""
        found = f"Made by fedlora init from {path.name}: {self.rows} examples, {_MEANING[self.format]}."
        return [found, *owner_lines(self.owners, self.owner)]

    def told(self) -> str:
        """What was found, in a sentence or two for the screen."""
        names = ", ".join(f"{key} {name!r}" for key, name in self.columns.items())
        parts = [f"{self.rows} examples of language modelling, {_MEANING[self.format]}" + (f" ({names})" * bool(names))]
        if self.references:
            parts.append("with further right answers in 'references'")
        if self.choices:
            parts.append("with texts to choose among in 'choices' (evaluate.metrics)")
        if self.kind is not None:
            parts.append(f"of {self.kinds} kinds by {self.kind!r}")
        told = [", ".join(parts), "If this is wrong: data.format in the config, or --task and --text"]
        if self.owners and self.owner is None:
            told.append(f"Whose an example is may stand in {' or '.join(map(repr, self.owners))}: --owner")
        return ". ".join(told) + "."


def look_at_dialogues(
    path: Path, rows: Rows, text: str | None = None, kind: str | None = None, owner: str | None = None
) -> FoundDialogues:
    """Find the format of examples of language modelling; every row is read as a run would read it.

    Args:
        path: of the data, for error sentences.
        rows: of the table.
        text: the column of plain texts, where the caller names it; None: the format is found by the columns.
        kind: the column with the kind of an example, by which examples may be dealt; None: none.
        owner: the column that says whose an example is; None: all that could are told.

    Raises:
        DataError: the columns fit no format, a row holds no example, or a named column is not there.
    """
    require_columns(path, rows[0], (text, kind, owner))
    layout = _layout(path, rows, text, [name for name in (kind, owner) if name is not None])
    found = found_format(rows[0], layout, path.name)
    examples = dialogues_from_rows(rows, layout, "train", path.name, owner).examples
    others = _others(rows, {*_named(found), layout.text, "references", "choices", "input", *([kind] if kind else [])})
    columns = {"text": layout.text} if found == "text" and layout.text != Layout.text else {}
    kinds = 0 if kind is None else len({str(row.get(kind)) for row in rows})
    tokens = long_tokens([_whole(example) for example in examples])
    owners = possible_owners(others)
    return FoundDialogues(
        len(rows),
        found,
        columns,
        kind,
        kinds,
        owners,
        tokens + 8,
        references="references" in rows[0],
        owner=owner,
        choices="choices" in rows[0],
    )


def has_format(row: Mapping[str, object]) -> bool:
    """Whether the columns of a row are those of prompts with completions or of conversations."""
    return any(all(column in row for column in columns) for _, columns in BY_COLUMNS)


def _layout(path: Path, rows: Rows, text: str | None, others: Sequence[str]) -> Layout:
    """By the columns; where they fit no format, plain texts in the column that looks like text."""
    if text is not None:
        return Layout(format="text", text=text)
    if has_format(rows[0]) or Layout.text in rows[0]:
        return Layout()
    cells = {name: values for name, values in _others(rows, set(others)).items() if values}
    if not cells:
        raise DataError(f"{path.name}: no column holds text among {', '.join(map(repr, rows[0]))}.")
    return Layout(format="text", text=text_column(cells, path))


def _named(found: Format) -> Sequence[str]:
    """The columns that a format goes by."""
    return next((columns for name, columns in BY_COLUMNS if name == found), ())


def _others(rows: Rows, taken: set[str]) -> dict[str, list[str]]:
    """The cells of the columns that are not taken and hold words or numbers."""
    names = [name for name, cell in rows[0].items() if name not in taken and isinstance(cell, str | int)]
    return {name: [str(row.get(name, "")) for row in rows] for name in names}


def _whole(example: Example) -> str:
    match example:
        case PlainText(text=text):
            return text
        case Completion(prompt=prompt, completion=completion):
            return f"{prompt}\n{completion}"
        case Conversation(messages=messages):
            return "\n".join(f"<role> {message.content} <end>" for message in messages)
