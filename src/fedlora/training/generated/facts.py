# SPDX-License-Identifier: Apache-2.0
"""A task of language modelling that needs nothing: generated facts, to be put into a sentence.

Each kind of facts (cafes, trains, ...) has its own sentences, so that clients that own different kinds learn different
ones. Made for first steps, demos and tests. Every record of a run on them says that they are generated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy

from fedlora.core.seeds import numpy_stream
from fedlora.training.data.dialogues import Completion, Dialogues
from fedlora.training.data.examples import Dataset
from fedlora.training.generated.kept import NAME

_PLACES: Final = ("Ashford", "Brindle", "Colby", "Dunmore", "Elford", "Fairlea", "Gilton", "Harwick")
_DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
_TIMES: Final = ("six", "seven", "eight", "nine", "ten", "noon")


@dataclass(frozen=True, slots=True)
class _Kind:
    """Facts of one kind, and the sentences that say them."""

    values: Mapping[str, Sequence[str]]
    """Of each fact."""
    sentences: Sequence[str]
    """All say the same."""


_KINDS: Final[Mapping[str, _Kind]] = {
    "cafe": _Kind(
        {
            "name": ("The Mill", "Blue Door", "The Old Oak", "Green Corner", "The Anchor", "Red Lantern"),
            "food": ("soup", "fish", "pasta", "cakes", "curry", "salads"),
            "price": ("cheap", "simple", "costly"),
            "town": _PLACES,
        },
        (
            "{name} is a {price} cafe in {town} that serves {food}.",
            "In {town} you find {name}, a {price} cafe with {food}.",
            "The cafe {name} in {town} has {food} and is {price}.",
        ),
    ),
    "train": _Kind(
        {"from": _PLACES, "to": _PLACES, "time": _TIMES, "platform": ("one", "two", "three", "four")},
        (
            "The train from {from} to {to} leaves at {time} from platform {platform}.",
            "At {time} a train goes from {from} to {to}, platform {platform}.",
            "From platform {platform} the train to {to} leaves {from} at {time}.",
        ),
    ),
    "weather": _Kind(
        {
            "town": _PLACES,
            "day": _DAYS,
            "sky": ("sunny", "cloudy", "rainy", "foggy"),
            "wind": ("no wind", "a light wind", "a strong wind"),
        },
        (
            "On {day} it will be {sky} in {town} with {wind}.",
            "{town} will be {sky} on {day} with {wind}.",
            "With {wind}, {day} in {town} will be {sky}.",
        ),
    ),
    "parcel": _Kind(
        {"item": ("lamp", "chair", "book", "phone", "jacket"), "to": _PLACES, "day": _DAYS, "time": _TIMES},
        (
            "Your {item} will arrive in {to} on {day} at {time}.",
            "On {day} at {time} we bring your {item} to {to}.",
            "We deliver the {item} to {to} on {day} at {time}.",
        ),
    ),
    "lesson": _Kind(
        {
            "topic": ("music", "history", "biology", "drawing", "chess"),
            "teacher": ("Miss Field", "Mister Stone", "Doctor Lake", "Miss Wood"),
            "day": _DAYS,
            "room": ("one", "two", "three", "four"),
        },
        (
            "{teacher} teaches {topic} on {day} in room {room}.",
            "The {topic} lesson of {teacher} is on {day} in room {room}.",
            "On {day} there is {topic} with {teacher} in room {room}.",
        ),
    ),
}


def generated_facts(train: int = 2000, test: int = 500, seed: int = 0) -> Dataset:
    """Facts of five kinds to be put into a sentence; each has two further sentences that count as right.

    Args:
        train: training examples.
        test: test examples.
        seed: of the facts.
    """
    parts = [_dialogues(count, seed, part) for count, part in ((train, "train"), (test, "test"))]
    return Dataset(parts[0], parts[1], tuple(_KINDS), origin=NAME)


def generated_texts(count: int, seed: int) -> list[str]:
    """Texts to make a base from: the same facts as a sentence, as another one, and as a list, one behind another in
    every order but the one that is to be learned.

    Args:
        count: of texts.
        seed: of the facts.
    """
    generator = numpy_stream(seed, "generated base facts")
    kinds = list(_KINDS)
    texts = []
    for number in range(count):
        kind = kinds[number % len(kinds)]
        facts, sentences = _drawn(kind, generator)
        first, second = sentences[:2]
        listed = _listed(kind, facts)
        texts.append((f"{first}\n{listed}", f"{first}\n{second}", f"{listed}\n{listed}")[int(generator.integers(3))])
    return texts


def _dialogues(count: int, seed: int, part: str) -> Dialogues:
    generator = numpy_stream(seed, "generated facts", part)
    names = list(_KINDS)
    kinds = generator.permutation(numpy.arange(count) % len(names)).astype(numpy.int64)
    examples = []
    for kind in kinds:
        facts, sentences = _drawn(names[kind], generator)
        examples.append(Completion(_listed(names[kind], facts), sentences[0], tuple(sentences[1:])))
    return Dialogues(tuple(examples), kinds=kinds)


def _drawn(kind: str, generator: numpy.random.Generator) -> tuple[dict[str, str], list[str]]:
    """Facts of a kind, and all sentences that say them in a drawn order."""
    made = _KINDS[kind]
    facts = {name: values[int(generator.integers(len(values)))] for name, values in made.values.items()}
    order = generator.permutation(len(made.sentences))
    return facts, [made.sentences[number].format(**facts) for number in order]


def _listed(kind: str, facts: Mapping[str, str]) -> str:
    return f"{kind}: " + ", ".join(f"{name} {value}" for name, value in facts.items())
