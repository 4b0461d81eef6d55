"""A config that is small enough to be tuned in a test, and one that has been tuned."""

import copy

import pytest

import fedlora


@pytest.fixture(scope="session")
def tune_tree(small):
    """Makes the mappings of a config to be tuned with some sections changed."""

    def make(**sections):
        tree = {
            "run": {"rounds": 2, "name": "mine"},
            "data": {"source": "files", "path": str(small / "data"), "train_examples": 120},
            "split": {"clients": 3, "validation": 0.2, "seed": 5},
            "model": {"base": str(small / "base"), "max_length": 24},
            "adapter": {"rank": 2},
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
