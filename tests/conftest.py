"""Settings for all tests, and a small run to try the command line on."""

import importlib
import json
import os
import shutil
import sys

import pytest
import torch
from hypothesis import settings

from fedlora import cli
from fedlora.training.generated.decoder import generated_decoder
from fedlora.training.generated.encoder import generated_base
from fedlora.training.generated.requests import generated_dataset

if "PYTEST_XDIST_WORKER" in os.environ:  # a process a core: threads of one would wait for those of another
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def smallest_base(tmp_path_factory):
    """The folder of a generated base of one layer and width 16. Copy it to change it."""
    folder = tmp_path_factory.mktemp("smallest")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        return generated_base(width=16, layers=1, steps=20)


@pytest.fixture(scope="session")
def smallest_decoder(tmp_path_factory):
    """The folder of a generated decoder of one layer and width 16. Copy it to change it."""
    folder = tmp_path_factory.mktemp("smallest_decoder")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        return generated_decoder(width=16, layers=1, steps=5)


@pytest.fixture(scope="session")
def small(tmp_path_factory, smallest_base):
    """A folder with `data/` and `base/`."""
    folder = tmp_path_factory.mktemp("small")
    shutil.copytree(smallest_base, folder / "base")
    dataset = generated_dataset(200, 60)
    (folder / "data").mkdir()
    for part in ("train", "test"):
        examples = getattr(dataset, part)
        rows = [
            {"text": text, "label": dataset.labels[label], "ward": f"ward/{number % 3}"}
            for number, (text, label) in enumerate(zip(examples.texts, examples.labels, strict=True))
        ]
        (folder / "data" / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def config(small, tmp_path):
    """Writes a config file of the small run with some keys changed."""

    def write(**sections):
        import tomli_w

        tree = {
            "run": {"rounds": 2, "name": "small"},
            "data": {"source": "files", "path": str(small / "data")},
            "split": {"clients": 3},
            "model": {"base": str(small / "base"), "max_length": 24},
            "adapter": {"rank": 2},
            "train": {"lr": 5e-3},
            "method": {"name": "fedit"},
        }
        for section, keys in sections.items():
            tree[section] = {**tree.get(section, {}), **keys}
        path = tmp_path / "config.toml"
        path.write_text(tomli_w.dumps(tree))
        return path

    return write


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs the command line in this process; returns exit code, stdout and stderr."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["fedlora", *map(str, words)])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def fedlora(command):
    """The command under its name, where a test does not import the package by it."""
    return command


@pytest.fixture
def offline(monkeypatch):
    """No hub can be reached, and that is known at once: the libraries read the variable for it when they are imported."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("huggingface_hub.constants", "datasets.config"):
        monkeypatch.setattr(importlib.import_module(name), "HF_HUB_OFFLINE", True)


@pytest.fixture(autouse=True)
def _one_seed():
    torch.manual_seed(0)


# A timing is no property of a sum: a busy machine must not make a test fail.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
