# SPDX-License-Identifier: Apache-2.0
"""A small decoder that needs no download: made once from generated texts, for first steps, demos and tests."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy
import torch
from torch import Tensor

from fedlora.core.seeds import numpy_stream, stream_seed
from fedlora.training.generated.facts import generated_texts
from fedlora.training.generated.kept import kept_base
from fedlora.training.quiet import quietly

_VOCABULARY: Final = 640
_POSITIONS: Final = 256
_TEXTS_A_STEP, _REPEATS_A_STEP, _REPEATED = 16, 8, 20
"""Generated texts in a step of training; sequences of so many random tokens twice, from which a model learns to copy
long before it would from the texts."""
_LR: Final = 4e-3
_END, _PAD = "<|end|>", "<|pad|>"


def generated_decoder(
    width: int = 96,
    layers: int = 2,
    steps: int = 900,
    seed: int = 0,
    *,
    before: Callable[[], None] = lambda: None,
) -> Path:
    """The folder of a small LLaMA that knows the sentences and lists of `generated_facts`, but not how to get from a
    list to a sentence; made once and kept.

    Args:
        width: of the hidden states.
        layers: how many.
        steps: of training, 16 texts each.
        seed: of its weights and texts.
        before: called before it is made, which takes about a minute; not called where it is there already.

    Raises:
        ModelError: the cache cannot be written.
    """

    def make(folder: Path) -> None:
        before()
        _train(width, layers, steps, seed, folder)

    recipe = {"decoder": 1, "width": width, "layers": layers, "steps": steps, "seed": seed}
    return kept_base(recipe, make)


def _train(width: int, layers: int, steps: int, seed: int, folder: Path) -> None:
    """The next token of generated texts, and of random tokens that are said twice."""
    from transformers import LlamaConfig, LlamaForCausalLM

    texts = generated_texts(max(500, _TEXTS_A_STEP * steps), stream_seed(seed, "base text"))
    tokenizer = _tokenizer(texts[:2000])
    rows = [[*row, tokenizer.eos_token_id] for row in tokenizer(texts, verbose=False)["input_ids"]]
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * width,
        max_position_embeddings=_POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "base weights"))
        model = LlamaForCausalLM(config)
        optimizer = torch.optim.AdamW(model.parameters(), lr=_LR, weight_decay=0.01)
        draws = numpy_stream(seed, "base repeats")
        for step in range(steps):
            repeats = numpy.tile(draws.integers(2, len(tokenizer), (_REPEATS_A_STEP, _REPEATED)), 2).tolist()
            ids = _padded([*repeats, *rows[_TEXTS_A_STEP * step :][:_TEXTS_A_STEP]], tokenizer.pad_token_id)
            loss = model(input_ids=ids, labels=ids.masked_fill(ids == tokenizer.pad_token_id, -100)).loss
            for group in optimizer.param_groups:
                group["lr"] = _LR * min(1.0, 20 * (step + 1) / steps, 1 - step / steps)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    with quietly():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _padded(rows: Sequence[Sequence[int]], padding: int) -> Tensor:
    """Rows of ids as one matrix, filled up behind each."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[padding] * (longest - len(row))] for row in rows])


def _tokenizer(texts: Sequence[str]) -> Any:
    """A byte-level BPE, which reads any text; without a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=[_END, _PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=_END, bos_token=None, pad_token=_PAD, model_max_length=_POSITIONS
    )
