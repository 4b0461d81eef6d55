# SPDX-License-Identifier: Apache-2.0
"""What `fedlora show` prints: the examples of a config as a run reads them."""

from collections.abc import Iterator
from dataclasses import replace

from fedlora.app.build.base import place_of_base
from fedlora.app.build.dataset import load_dataset
from fedlora.app.build.encoding import Parts, read_parts, renderer_of
from fedlora.app.config.schema import Config
from fedlora.errors import ConfigError
from fedlora.training.bases.loaded_model import PYTHON
from fedlora.training.bases.loading import describe_base
from fedlora.training.bases.model import Base, TaskType
from fedlora.training.data.dialogues import Dialogues
from fedlora.training.data.examples import Examples, Texts
from fedlora.training.encoding.rendered_tokens import RenderedTokens, render_tokens_once, uncut
from fedlora.training.encoding.show import show_labelled, show_owners, show_rendered
from fedlora.training.encoding.tokens import Tokens


def shown(config: Config, count: int = 3) -> Iterator[str]:
    """Lines about the training part, the test part and the clients; the base's weights are not read.

    Args:
        config: a whole config.
        count: how many training examples to show token by token.

    Raises:
        UserError: with one sentence about what is wrong with data, base or config.
    """
    if config.model.base == PYTHON:
        raise ConfigError(
            "model.base is 'python': the model was handed over in Python, and its tokenizer with it; name its folder "
            "with --set model.base=FOLDER."
        )
    dataset = load_dataset(config)
    task: TaskType = "CAUSAL_LM" if config.model.task == "generate" else "SEQ_CLS"
    base = describe_base(place_of_base(config), task, dataset.labels)
    parts = read_parts(config, base, dataset)
    yield from _part(config, base, parts, "training", count)
    yield ""
    if parts.split.test is not None:
        yield f"The test part is cut out of each client's training examples: {len(parts.test):,} examples."
    else:
        yield from _part(config, base, parts, "test", 0)
    yield ""
    yield from _clients(parts)


def _part(config: Config, base: Base, parts: Parts, name: str, count: int) -> Iterator[str]:
    """Numbers of a part, and some of its examples."""
    examples, tokens = (parts.dataset.train, parts.train) if name == "training" else (parts.dataset.test, parts.test)
    if isinstance(examples, Texts):
        yield from show_labelled(examples, tokens, parts.dataset.labels, base.tokenizer, name, count=count)
        return
    given = parts.given.train if name == "training" else parts.given.test
    yield from show_rendered(_rendered(config, base, given, tokens), base.tokenizer, name, count=count)
    if config.data.long_texts == "split":
        yield from (sentence for sentence in parts.told if f" {name} " in sentence)


def _rendered(config: Config, base: Base, given: Examples, tokens: Tokens) -> RenderedTokens:
    """The tokens of a part with what became of each example; of split texts, each piece is an example."""
    if config.data.long_texts == "split" or not isinstance(given, Dialogues):
        return uncut(tokens, config.model.max_length)
    return render_tokens_once(given.examples, renderer_of(config, base, given), base.tokenizer_fingerprint)


def _clients(parts: Parts) -> Iterator[str]:
    """Who trains on what, and what belongs to nobody."""
    split = parts.split
    tokens = replace(parts.train, labels=parts.dataset.train.labels)  # of language modelling, the kinds
    yield from show_owners(split.for_training, tokens, parts.dataset.labels)
    if split.unseen:
        examples = sum(len(part.test) for part in split.unseen.values())
        yield f"{len(split.unseen):,} more clients never train and are scored as newcomers, with {examples:,} examples."
    if split.small:
        yield f"{len(split.small):,} clients are left out because they have too few examples."
    if split.empty:
        yield f"{len(split.empty):,} clients got no training example and are left out."
    if split.unused:
        yield f"{split.unused:,} training examples belong to nobody."
