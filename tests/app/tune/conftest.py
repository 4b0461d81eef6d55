"""A config that is small enough to be tuned in a test, and one that has been tuned."""

import copy
import json

import pytest

import fedlora


@pytest.fixture(scope="session")
def lopsided(tmp_path_factory):
    """A folder of requests, seven of ten with one label: in two rounds even the smallest base learns which."""
    folder = tmp_path_factory.mktemp("lopsided")
    things = ("account", "card", "limit", "bill", "login")
    wishes = {"open": ("please open a new {}", 1), "close": ("i want to close my {}", 7), "find": ("where is my {}", 2)}
    rows = [
        {"text": wish.format(thing), "label": label}
        for _ in range(4)
        for label, (wish, times) in wishes.items()
        for thing in things
        for _ in range(times)
    ]
    for part, some in (("train", rows[:150]), ("test", rows[150:])):
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    return folder


@pytest.fixture(scope="session")
def tune_tree(lopsided, small):
    """Makes the mappings of a config to be tuned with some sections changed."""

    def make(**sections):
        tree = {
            "run": {"rounds": 2, "name": "mine"},
            "data": {"source": "files", "path": str(lopsided), "train_examples": 100},
            "split": {"clients": 3, "validation": 0.3, "seed": 5},
            "model": {"base": str(small / "base"), "max_length": 12},
            "adapter": {"rank": 2},
            "train": {"batch_size": 8},
            "method": {"name": "fedit"},
        }
        for section, keys in sections.items():
            tree[section] = {**tree.get(section, {}), **keys}
        return copy.deepcopy(tree)

    return make


ASKED = {"minutes": 30, "methods": ["fedit", "ffa"], "ranks": [2], "lr": [1e-9, 2e-2], "draws": 3}
"""A race of some thirty trials; so many minutes are never used up."""


@pytest.fixture(scope="session")
def tuned(tune_tree, tmp_path_factory):
    """The folder of a race that has been run, and what it found."""
    folder = tmp_path_factory.mktemp("tuned")
    return folder, fedlora.tune(tune_tree(), out=folder, workers=1, **ASKED)
