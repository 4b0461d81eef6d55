# SPDX-License-Identifier: Apache-2.0
"""How a run's language model is to be asked: as its examples were rendered."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from fedlora.app.build.encoding import render_settings, renderer_of
from fedlora.app.config.schema import Config
from fedlora.training.bases.model import Base
from fedlora.training.data.dialogues import Conversation, Dialogues, Example, PlainText
from fedlora.training.data.examples import Examples
from fedlora.training.encoding.render import RenderSettings

TEXT, PROMPT, CHAT = "text", "prompt", "chat template"
"""What a model was trained on: plain texts, which are written on; prompts; the turns of its chat template."""
_BY_FORMAT: Final = {"text": TEXT, "messages": CHAT, "sharegpt": CHAT, "auto": None}


def asked_how(config: Config, base: Base, examples: Examples | None) -> dict[str, object] | None:
    """How a prompt precedes its answer, and the tokens that end an answer, for `fedlora.json`.

    Args:
        config: of the run.
        base: of the run, a language model.
        examples: that it trained on; None: they are elsewhere, as at the server of a deployment.

    Returns:
        `by` (one of `TEXT`, `PROMPT`, `CHAT`), `separator`, `stops`; None where nobody here knows.
    """
    if not isinstance(examples, Dialogues) or not len(examples):
        by = CHAT if config.data.style == "chat" else _BY_FORMAT.get(config.data.format, PROMPT)
        return None if by is None else {"by": by, "separator": _separator(config, by), "stops": []}
    renderer = renderer_of(config, base, Dialogues(examples.examples[:1]))  # all examples of a table have one layout
    stops = [str(base.tokenizer.convert_ids_to_tokens(stop)) for stop in renderer.stops]
    by = _by(config, examples.examples[0])
    return {"by": by, "separator": _separator(config, by), "stops": stops}


def as_asked(config: Config, asked: Mapping[str, Any] | None) -> RenderSettings:
    """How prompts are rendered for a model, by what its `fedlora.json` says; None: by its config alone."""
    settings = render_settings(config)
    if asked is None or asked["by"] == PROMPT:
        return settings
    return replace(settings, style="chat") if asked["by"] == CHAT else replace(settings, separator="")


def _by(config: Config, example: Example) -> str:
    if isinstance(example, PlainText):
        return TEXT
    return CHAT if config.data.style == "chat" or isinstance(example, Conversation) else PROMPT


def _separator(config: Config, by: str) -> str:
    return config.data.separator if by == PROMPT else ""
