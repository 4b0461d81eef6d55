# SPDX-License-Identifier: Apache-2.0
"""A small encoder that needs no download: made once from generated requests, for first steps, demos and tests."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from fedlora.core.seeds import stream_seed
from fedlora.training.generated.kept import kept_base
from fedlora.training.generated.requests import some_requests
from fedlora.training.quiet import quietly


def generated_base(
    width: int = 96,
    layers: int = 3,
    steps: int = 500,
    seed: int = 0,
    *,
    before: Callable[[], None] = lambda: None,
) -> Path:
    """The folder of a small BERT, trained on generated sentences by masked words; made once and kept.

    Args:
        width: of the hidden states.
        layers: how many.
        steps: of training, 64 sentences each.
        seed: of its weights and sentences.
        before: called before it is made, which takes minutes; not called where it is there already.

    Raises:
        ModelError: the cache cannot be written.
    """

    def make(folder: Path) -> None:
        before()
        _train_base(width, layers, steps, seed, folder)

    return kept_base({"width": width, "layers": layers, "steps": steps, "seed": seed, "version": 2}, make)


def _train_base(width: int, layers: int, steps: int, seed: int, folder: Path) -> None:
    """Two tasks without labels: guess the hidden words, and name all words from the sentence's vector."""
    from transformers import BertConfig, BertModel

    sentences = some_requests(64 * 100, stream_seed(seed, "base text"))
    tokenizer = word_tokenizer(sentences)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=4 * width,
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "base weights"))
        model = BertModel(config).eval()  # eval: no dropout
        guess, name = torch.nn.Linear(width, len(tokenizer)), torch.nn.Linear(width, len(tokenizer))
        parameters = [*model.parameters(), *guess.parameters(), *name.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=2e-3)
        for step in range(steps):
            first = 64 * (step % 100)
            batch = tokenizer(list(sentences[first : first + 64]), padding=True, return_tensors="pt")
            ids, words = batch["input_ids"], batch["input_ids"] > tokenizer.unk_token_id
            hidden = words & (torch.rand(words.shape) < 0.2)
            seen = model(torch.where(hidden, tokenizer.mask_token_id, ids), batch["attention_mask"])
            named = torch.zeros(len(ids), len(tokenizer)).scatter_(1, ids, 1.0)
            loss = functional.cross_entropy(guess(seen.last_hidden_state[hidden]), ids[hidden])
            loss = loss + functional.cross_entropy(name(seen.pooler_output), named / named.sum(1, keepdim=True))
            for group in optimizer.param_groups:
                group["lr"] = 2e-3 * (1 - step / steps)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    with quietly():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def word_tokenizer(sentences: Sequence[str]) -> Any:
    """One token a word."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]"]
    words = sorted({word for sentence in sentences for word in sentence.split()})
    vocabulary = {word: number for number, word in enumerate([*special, *words])}
    backend = Tokenizer(WordLevel(vocabulary, unk_token=special[-1]))
    backend.pre_tokenizer = Whitespace()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    names = [f"{word.strip('[]').lower()}_token" for word in special]
    return PreTrainedTokenizerFast(tokenizer_object=backend, **dict(zip(names, special, strict=True)))
