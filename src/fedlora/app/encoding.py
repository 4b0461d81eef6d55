# SPDX-License-Identifier: Apache-2.0
"""Examples as token ids, as a config's task reads them."""

from fedlora.app.config import Config
from fedlora.training.dialogues import Dialogues
from fedlora.training.encoded import Encoded, encode_dialogues, encode_labelled
from fedlora.training.examples import Examples, Texts
from fedlora.training.model import Base
from fedlora.training.readable import require_length, require_readable, vocabulary
from fedlora.training.render import Renderer, RenderSettings, make_renderer, require_vocabulary


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
            found = encode_labelled(examples, base.tokenizer, config.model.max_length, fingerprint)
        case Dialogues():
            found = encode_dialogues(examples, renderer_of(config, base, examples), part, fingerprint)
        case _:
            raise TypeError(f"examples of an unknown kind: {type(examples).__name__}")
    require_readable(base.name, base.model, base.tokenizer, found.tokens)
    return found


def renderer_of(config: Config, base: Base, examples: Dialogues) -> Renderer:
    """What turns these examples into token ids, for training, scores and generation alike.

    Raises:
        ModelError: the tokenizer does not fit the base, or lacks what these examples need.
    """
    require_vocabulary(base.tokenizer, vocabulary(base.model), base.name)
    data = config.data
    settings = RenderSettings(data.style, data.separator, data.turns, data.truncate, data.end)
    return make_renderer(examples.examples, base.tokenizer, base.name, config.model.max_length, settings)
