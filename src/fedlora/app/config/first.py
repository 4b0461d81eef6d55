# SPDX-License-Identifier: Apache-2.0
"""A first config for somebody's own data: which task they are for, and the text of the config."""

from pathlib import Path

from fedlora.app.config.commented import commented
from fedlora.app.config.initialise import Found, look_at, named_as_label, read_training_rows
from fedlora.app.config.initialise_dialogues import FoundDialogues, has_format, look_at_dialogues
from fedlora.errors import ConfigError, DataError

TASKS = ("classify", "generate")


def find(
    path: Path, task: str | None = None, text: str | None = None, label: str | None = None, owner: str | None = None
) -> Found | FoundDialogues:
    """What a file holds, or a folder's training file.

    Where no task is given: columns of prompts, completions or conversations are for language modelling; texts with
    labels are to be classified; texts without are for language modelling.

    Args:
        path: of the data.
        task: classify or generate; None: by the columns.
        text: the column with the text, where the caller knows it.
        label: the column with the label, or with the kind of an example of language modelling, likewise.
        owner: the column that says whose an example is.

    Raises:
        UserError: with one sentence about what does not fit.
    """
    if task is not None and task not in TASKS:
        raise ConfigError(f"--task is {task!r}; expected classify or generate.")
    rows = read_training_rows(path)
    if task == "generate" or (task is None and label is None and text is None and has_format(rows[0])):
        return look_at_dialogues(path, rows, text, label, owner)
    try:
        return look_at(path, rows, text, label, owner)
    except DataError:
        if task is not None or label is not None or named_as_label(rows[0]):
            raise
        return look_at_dialogues(path, rows, text, None, owner)


def first_config(path: Path, found: Found | FoundDialogues) -> str:
    """The text of a config that runs as it is.

    Args:
        path: of the data, as the config's folder sees it.
        found: in them.
    """
    return commented(found.values(path), found.heading(path))
