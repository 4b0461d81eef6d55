# SPDX-License-Identifier: Apache-2.0
"""A task and a base that need nothing: generated requests to a help desk, and a small encoder of them.

Made for first steps, demos and tests. Every record of a run on them says that they are generated.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from torch.nn import functional

from fedlora.core.seeds import numpy_stream, stream_seed
from fedlora.errors import ModelError
from fedlora.training.cache import made_once
from fedlora.training.examples import Dataset, Texts
from fedlora.training.quiet import quietly

NAME = "generated"
"""What `data.source` and `model.base` are called for these."""

_OPENINGS = (
    "hello", "hi there", "good morning", "excuse me", "sorry to bother you", "quick question", "please help",
    "as a new customer", "for the second time", "since last week", "from abroad", "on my phone",
)  # fmt: skip
_ACTIONS = {
    "open": ("i want to open", "please set up", "how do i start", "can i get", "i would like to order"),
    "close": ("i want to close", "please cancel", "how do i end", "get rid of", "i no longer need"),
    "change": ("i want to change", "please update", "how do i edit", "can i modify", "something is wrong in"),
    "find": ("i cannot find", "where is", "please show me", "how do i look up", "i am searching for"),
    "share": ("i want to share", "please send my partner", "how do i forward", "can others use", "give access to"),
}
_OBJECTS = {
    "account": ("account", "savings account", "current account", "profile", "login"),
    "card": ("card", "debit card", "credit card", "visa", "plastic"),
    "address": ("address", "home address", "street name", "postcode", "contact details"),
    "payment": ("payment", "transfer", "standing order", "direct debit", "bill"),
    "limit": ("limit", "daily limit", "spending cap", "overdraft", "allowance"),
}
_CLOSINGS = (
    "today", "as soon as possible", "before the weekend", "thank you", "thanks a lot", "is that possible",
    "what does it cost", "how long does it take", "i am in a hurry", "my wife told me to ask", "cheers", "at last",
)  # fmt: skip
_NOISE = (
    "my old bank was quicker", "the app is slow", "i tried it twice", "the line was busy", "the letter came late",
    "the branch is closed", "my friend has the same question", "i moved last month", "it worked last year",
)  # fmt: skip


def generated_dataset(train: int = 2000, test: int = 500, seed: int = 0) -> Dataset:
    """Requests with 25 intents: what is wanted (open, close, ...) of what (account, card, ...)."""
    labels = tuple(f"{action}_{thing}" for action in _ACTIONS for thing in _OBJECTS)
    parts = [_texts(count, len(labels), seed, part) for count, part in ((train, "train"), (test, "test"))]
    return Dataset(parts[0], parts[1], labels, origin=NAME)


def _texts(count: int, labels: int, seed: int, part: str) -> Texts:
    generator = numpy_stream(seed, "generated text", part)
    intents = generator.permutation(numpy.arange(count) % labels)
    return Texts(tuple(_sentence(int(intent), generator) for intent in intents), intents.astype(numpy.int64))


def _sentence(intent: int, generator: numpy.random.Generator) -> str:
    def pick(options: Sequence[str]) -> str:
        return options[int(generator.integers(len(options)))]

    action, thing = divmod(intent, len(_OBJECTS))
    words = [pick(list(_ACTIONS.values())[action]), "my", pick(list(_OBJECTS.values())[thing])]
    if generator.random() < 0.6:
        words.insert(0, pick(_OPENINGS))
    if generator.random() < 0.4:
        words.append(pick(_NOISE))
    if generator.random() < 0.6:
        words.append(pick(_CLOSINGS))
    return " ".join(words)


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

    recipe = {"width": width, "layers": layers, "steps": steps, "seed": seed, "version": 2}
    name = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
    try:
        return made_once(f"{NAME}-base-{name}", make)
    except OSError as error:
        raise ModelError(
            f"The generated base cannot be kept: {error.filename} cannot be written ({error.strerror}). Set the "
            f"environment variable XDG_CACHE_HOME to a folder that can."
        ) from error


def _train_base(width: int, layers: int, steps: int, seed: int, folder: Path) -> None:
    """Two tasks without labels: guess the hidden words, and name all words from the sentence's vector."""
    from transformers import BertConfig, BertModel

    sentences = _texts(64 * 100, len(_ACTIONS) * len(_OBJECTS), stream_seed(seed, "base text"), "train").texts
    tokenizer = _word_tokenizer(sentences)
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


def _word_tokenizer(sentences: Sequence[str]) -> Any:
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
