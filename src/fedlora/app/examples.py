# SPDX-License-Identifier: Apache-2.0
"""Examples as token ids, as the task reads them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

from fedlora.app.config import Config
from fedlora.training.data import Examples, Texts
from fedlora.training.dialogues import Dialogues
from fedlora.training.model import Base
from fedlora.training.readable import require_length, require_readable, vocabulary
from fedlora.training.render import Renderer, RenderSettings, make_renderer, require_vocabulary
from fedlora.training.rendered_tokens import RenderedTokens, render_tokens, render_tokens_once
from fedlora.training.tokens import Tokens, tokenise, tokenise_once


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """Examples as token ids."""

    tokens: Tokens
    kept: NDArray[numpy.int64]
    """Which of the examples these are, in order; the others have nothing to learn."""
    told: Sequence[str] = ()
    """A sentence each for what was cut and what was left out."""

    def __repr__(self) -> str:
        return f"Encoded({len(self.kept):,} examples)"


def encode(config: Config, base: Base, examples: Examples, part: str, fingerprint: str | None) -> Encoded:
    """Examples as token ids; refused where the base cannot read them.

    Args:
        config: says how they are read, and where they are cut.
        base: whose tokenizer reads them.
        examples: labelled texts, or examples of language modelling.
        part: of which they are, such as `training`, for sentences.
        fingerprint: the tokenizer's, where tokens may be kept on disk for other runs; None: they may not.

    Raises:
        UserError: the base cannot read these examples, or nothing is left of them.
    """
    require_length(base.tokenizer, config.model.max_length)
    match examples:
        case Texts():
            tokens = _labelled(examples, base.tokenizer, config.model.max_length, fingerprint)
            found = Encoded(tokens, numpy.arange(len(tokens)))
        case Dialogues():
            made = rendered(config, base, examples, fingerprint)
            found = Encoded(made.tokens, made.kept, made.told(part))
        case _:
            raise TypeError(f"examples of an unknown kind: {type(examples).__name__}")
    require_readable(base.name, base.model, base.tokenizer, found.tokens)
    return found


def rendered(config: Config, base: Base, examples: Dialogues, fingerprint: str | None) -> RenderedTokens:
    """Examples of language modelling as token ids, see `encode`."""
    require_vocabulary(base.tokenizer, vocabulary(base.model), base.name)
    renderer = renderer_of(config, base, examples)
    if fingerprint is None:
        return render_tokens(examples.examples, renderer)
    return render_tokens_once(examples.examples, renderer, fingerprint)


def renderer_of(config: Config, base: Base, examples: Dialogues) -> Renderer:
    """What turns these examples into token ids, for training, scores and generation alike."""
    data = config.data
    settings = RenderSettings(data.style, data.separator, data.turns, data.truncate, data.end)
    return make_renderer(examples.examples, base.tokenizer, base.name, config.model.max_length, settings)


def _labelled(texts: Texts, tokenizer: Any, max_length: int, fingerprint: str | None) -> Tokens:
    """The tokens of every text, special tokens included, cut at `max_length`; from a cache where there is one."""
    if fingerprint is None:
        return tokenise(texts, tokenizer, max_length)
    return tokenise_once(texts, tokenizer, fingerprint, max_length)
