"""A study small enough to be run in a test: nested mappings, and one that has been run."""

import copy

import pytest

import fedlora


@pytest.fixture(scope="session")
def study_tree(small):
    """Makes the mappings of a study with some sections changed."""

    def make(**sections):
        tree = {
            "study": {"name": "trial", "reference": "fedit", "draws": 3, "extra_seeds": [7], "repeated": 1},
            "tuning": {"draws": [50], "rounds": 1, "lr": [5e-3, 2e-2]},
            "run": {"rounds": 2},
            "data": {"source": "files", "path": str(small / "data"), "train_examples": 120},
            "split": {"clients": 3, "validation": 0.2},
            "model": {"base": str(small / "base"), "max_length": 24},
            "adapter": {"rank": 2},
            "variant": [
                {"name": "fedit", "method": "fedit"},
                {"name": "fedsa", "method": "fedsa"},
                {"name": "lora-a2", "method": {"name": "lora-a2", "pool_rank": 4}},
            ],
        }
        for section, keys in sections.items():
            if keys is None:
                tree.pop(section)
            elif isinstance(keys, dict):
                tree[section] = {**tree.get(section, {}), **keys}
            else:
                tree[section] = keys
        return copy.deepcopy(tree)

    return make


@pytest.fixture(scope="session")
def studied(study_tree, tmp_path_factory):
    """The folder of a study that has been run, and what it found."""
    folder = tmp_path_factory.mktemp("studied")
    return folder, fedlora.study(study_tree(), out=folder, workers=1)
