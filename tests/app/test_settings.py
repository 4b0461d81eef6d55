"""What the settings dataclasses say of their keys is what a config is held to, and what the reference page tells."""

import math
from typing import Annotated, get_args, get_origin

import pytest

from fedlora.app.config.schema import Config, make_config, resolved
from fedlora.app.config.sections import keys, sections, tree_of
from fedlora.core.settings import Range
from fedlora.deploy.config import SiteConfig
from fedlora.errors import ConfigError

NEEDED = {"wrap": {"name": "clip"}, "deploy": {"sites": 2}}
ALL = [
    (name, section, key)
    for name, (section, _) in {**sections(Config), **sections(SiteConfig)}.items()
    for key in keys(section)
]
CHECKED = [
    (name, key) for name, (section, repeated) in sections(Config).items() if not repeated for key in keys(section)
]


def given(section, key, value):
    return make_config({section: {**NEEDED.get(section, {}), key: value}})


def inner(annotation):
    """The annotation and all that is within it."""
    yield annotation
    for argument in get_args(annotation):
        yield from inner(argument)


def ranges(annotation):
    """(type, Range) of every number with bounds."""
    for part in inner(annotation):
        if get_origin(part) is Annotated and get_args(part)[0] in (int, float):
            yield get_args(part)


def outside(kind, bounds):
    """The values next to the range, on its other side."""
    step = 1 if kind is int else 1e-9
    if bounds.at_least is not None:
        yield kind(bounds.at_least - step)
    if bounds.above is not None:
        yield kind(bounds.above)
    if bounds.at_most is not None:
        yield kind(bounds.at_most + step)
    if bounds.below is not None:
        yield kind(bounds.below)


@pytest.mark.parametrize(("section", "kind", "key"), ALL, ids=lambda own: getattr(own, "name", str(own)))
def test_every_key_has_a_sentence(section, kind, key):
    assert key.text.endswith("."), f"{section}.{key.name}"


@pytest.mark.parametrize(("section", "key"), CHECKED, ids=lambda own: getattr(own, "name", own))
def test_what_is_outside_a_range_is_refused_and_the_default_is_not(section, key):
    for kind, bounds in ranges(key.type):
        for value in outside(kind, bounds):
            with pytest.raises(ConfigError, match=rf"^{section}\.{key.name} is .*; input should be "):
                given(section, key.name, value)
        if kind is float:
            with pytest.raises(ConfigError, match="finite number"):
                given(section, key.name, math.inf)
    if key.default is not None:
        assert getattr(getattr(given(section, key.name, key.default), section), key.name) == key.default


def test_there_are_ranges_to_be_outside_of():
    assert sum(bool(list(ranges(key.type))) for _, key in CHECKED) > 25


@pytest.mark.parametrize(
    ("tree", "sentence"),
    [
        ({"run": 3}, r"run is 3; expected a section \[run\] with keys\."),
        ({"deploy": {}}, r"deploy\.sites is not set, and it has no default: Number of sites"),
        ({"clients": {"ranks": "unifrom"}}, r"valid list or input should be 'uniform', 'heavy-tail' or 'normal'"),
        ({"run": {"rounds": True}}, r"run\.rounds is True; input should be a valid integer"),
        ({"train": {"lr": "1e-3"}}, r"train\.lr is '1e-3'; input should be a valid number"),
    ],
)
def test_one_sentence_for_what_is_wrong(tree, sentence):
    with pytest.raises(ConfigError, match=sentence):
        make_config(tree)


def test_a_whole_number_is_a_number():
    alpha = make_config({"split": {"alpha": 1}}).split.alpha
    assert (alpha, type(alpha)) == (1.0, float)


def test_a_config_is_its_tree():
    config = make_config({"method": {"name": "lora-a2", "pool_rank": 20}, "clients": {"ranks": "normal"}})
    tree = tree_of(config)
    assert tree["method"] == {"name": "lora-a2", "pool_rank": 20}
    assert make_config(tree) == config
    assert "options" not in resolved(config)


def test_a_range_in_words():
    assert str(Range(at_least=0.0, below=1.0)) == "at least 0 and below 1"
    assert str(Range(entries=1)) == "not empty"
