# SPDX-License-Identifier: Apache-2.0
"""The tokenizer that lies beside an adapter to go on from: whoever made it rendered conversations by its template."""

import copy
from pathlib import Path

from fedlora.errors import ModelError
from fedlora.training.bases.model import Base

_FILE = "tokenizer_config.json"


def with_template_of(base: Base, folder: Path) -> Base:
    """The base with the chat template that lies beside an adapter; the base itself where none lies there.

    Args:
        base: a language model.
        folder: with the adapter.

    Raises:
        ModelError: the tokenizer beside the adapter has other tokens than the base's, or cannot be read.
    """
    from transformers import AutoTokenizer

    if not (folder / _FILE).is_file():
        return base
    try:
        beside = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # files of others, read by code of others: damaged ones end in any of them
        raise ModelError(
            f"adapter.start is {str(folder)!r}, but the tokenizer beside that adapter cannot be read "
            f"({type(error).__name__}): put its files back, or take all of them away to use the base's."
        ) from error
    here, there = base.tokenizer.get_vocab(), beside.get_vocab()
    if here != there:
        raise ModelError(
            f"adapter.start is {str(folder)!r}, which was trained with a tokenizer of {len(there)} tokens that differ "
            f"from the {len(here)} of the base {base.name}: name the base that the adapter belongs to in model.base."
        )
    if beside.chat_template in {None, base.tokenizer.chat_template}:
        return base
    other = copy.copy(base)
    other.tokenizer = copy.deepcopy(base.tokenizer)
    other.tokenizer.chat_template = beside.chat_template
    return other
