# SPDX-License-Identifier: Apache-2.0
"""A task of classification that needs nothing: generated requests to a help desk.

Made for first steps, demos and tests. Every record of a run on them says that they are generated.
"""

from collections.abc import Sequence

import numpy

from fedlora.core.seeds import numpy_stream
from fedlora.training.data.examples import Dataset, Texts
from fedlora.training.generated.kept import NAME

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


def some_requests(count: int, seed: int) -> Sequence[str]:
    """Requests of every kind, to train a base with."""
    return _texts(count, len(_ACTIONS) * len(_OBJECTS), seed, "train").texts


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
