# SPDX-License-Identifier: Apache-2.0
"""Examples as token ids, as a config's task reads them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fedlora.app.build.dataset import deal
from fedlora.app.config.choices import choices_column
from fedlora.app.config.schema import Config
from fedlora.errors import ConfigError
from fedlora.training.bases.model import Base
from fedlora.training.data.dialogues import Dialogues
from fedlora.training.data.examples import Dataset, Examples, Texts
from fedlora.training.data.split import Indices, Split
from fedlora.training.encoding.choices import encode_choices
from fedlora.training.encoding.encoded import Encoded, encode_dialogues, encode_labelled
from fedlora.training.encoding.readable import require_length, require_readable, vocabulary
from fedlora.training.encoding.render import Renderer, RenderSettings, make_renderer, require_vocabulary
from fedlora.training.encoding.splitting import encode_split_texts
from fedlora.training.encoding.tokens import Tokens


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """Training and test examples with their tokens, and who owns which."""

    dataset: Dataset
    """The examples that are kept, in the order of the tokens."""
    split: Split
    train: Tokens
    test: Tokens
    told: Sequence[str]
    """A sentence each for what was cut, split or left out."""
    given: Dataset
    """All examples, as the data have them."""

    def __repr__(self) -> str:
        return f"Parts({self.dataset!r}, {len(self.split.clients)} clients)"


def read_parts(config: Config, base: Base, dataset: Dataset) -> Parts:
    """Training and test examples as a run sees them.

    Args:
        config: a whole config.
        base: whose tokenizer reads them.
        dataset: the examples.

    Raises:
        UserError: with one sentence about what does not fit.
    """
    fingerprint, given = base.tokenizer_fingerprint, dataset
    train, test = (
        encode(config, base, part, name, fingerprint)
        for part, name in ((dataset.train, "training"), (dataset.test, "test"))
    )
    dataset = replace(dataset, train=dataset.train.take(train.kept), test=dataset.test.take(test.kept))
    dataset, dealt = deal(config, dataset)
    cut_out = dealt.test is not None  # of the clients
    tokens = test.tokens if dealt.test is None else train.tokens.take(dealt.test)
    told = train.told if cut_out else [*train.told, *test.told]
    trained, tested, cut = with_choices(config, base, dataset, dealt, train=train.tokens, test=tokens)
    return Parts(dataset, dealt, trained, tested, [*told, *cut], given)


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
    require_answers(config, examples)
    match examples:
        case Texts():
            found = encode_labelled(examples, base.tokenizer, config.model.max_length, fingerprint)
        case Dialogues():
            read = encode_split_texts if config.data.long_texts == "split" else encode_dialogues
            found = read(examples, renderer_of(config, base, examples), part, fingerprint)
        case _:
            raise TypeError(f"examples of an unknown kind: {type(examples).__name__}")
    require_readable(base.name, base.model, base.tokenizer, found.tokens)
    return found


def with_choices(
    config: Config, base: Base, dataset: Dataset, split: Split, *, train: Tokens, test: Tokens
) -> tuple[Tokens, Tokens, Sequence[str]]:
    """Training and test tokens with the texts to choose among, where a metric asks for a choice: of test examples, and
    of training examples that may be scored.

    Args:
        config: a whole config.
        base: whose tokenizer reads them.
        dataset: the examples, in the order of the tokens.
        split: says which training examples are for validation or of clients that never train.
        train: of the training set.
        test: of the test set.

    Returns:
        Both, and a sentence each for what was cut.

    Raises:
        UserError: as `encode_choices`.
    """
    train, of_train = _choosing(config, base, dataset.train, train, split.scored_in_training)
    test, of_test = test_with_choices(config, base, dataset.test, test)
    return train, test, [*of_train, *of_test]


def test_with_choices(config: Config, base: Base, examples: Examples, test: Tokens) -> tuple[Tokens, Sequence[str]]:
    """The test tokens of `with_choices`, where there is nothing else."""
    return _choosing(config, base, examples, test, None)


def _choosing(
    config: Config, base: Base, examples: Examples, tokens: Tokens, scored: Indices | None
) -> tuple[Tokens, Sequence[str]]:
    nothing = len(tokens) == 0 or (scored is not None and len(scored) == 0)
    if choices_column(config) is None or not isinstance(examples, Dialogues) or nothing:
        return tokens, []
    part = "test" if scored is None else "training"
    made = encode_choices(examples.examples, scored, renderer_of(config, base, examples), part)
    return replace(tokens, choices=made.choices), made.told


def require_answers(config: Config, examples: Examples) -> None:
    """Refuse to score answers where the examples have none.

    Raises:
        ConfigError: evaluate.metrics is set, and the examples are labelled or plain texts.
    """
    metrics = config.evaluate.metrics
    if not metrics:
        return
    if not isinstance(examples, Dialogues):
        raise ConfigError(
            f"evaluate.metrics is {metrics!r}, which score answers, but model.task is 'classify': leave it "
            f"out, or set model.task = 'generate'."
        )
    if any(not example.answers for example in examples.examples):
        raise ConfigError(
            f"evaluate.metrics is {metrics!r}, which score answers, but the examples are plain texts, which "
            f"answer nothing: leave it out, or give prompts with completions, or conversations."
        )


def renderer_of(config: Config, base: Base, examples: Dialogues) -> Renderer:
    """What turns these examples into token ids, for training, scores and generation alike.

    Raises:
        ModelError: the tokenizer does not fit the base, or lacks what these examples need.
    """
    require_vocabulary(base.tokenizer, vocabulary(base.model), base.name)
    settings = render_settings(config)
    return make_renderer(examples.examples, base.tokenizer, base.name, config.model.max_length, settings)


def render_settings(config: Config) -> RenderSettings:
    """How a config has examples rendered."""
    data = config.data
    return RenderSettings(data.style, data.separator, data.turns, data.truncate, data.end)
