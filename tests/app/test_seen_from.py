"""From where a config's paths are seen, and what is a path at all."""

import os
from pathlib import Path

import pytest

from fedlora.app.config.schema import make_config, read_config
from fedlora.errors import ConfigError


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Two folders with a `base`, a config file in the first, the second one the working directory."""
    for name in ("file", "place"):
        (tmp_path / name / "base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path


def written(here, text):
    (here / "file" / "config.toml").write_text(text)
    return here / "file" / "config.toml"


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("base", "file/base"),
        ("./base", "file/base"),
        ("../place/base", "place/base"),
        ("./nowhere", "file/nowhere"),
        ("generated", None),
        ("sentence-transformers/all-MiniLM-L6-v2", None),
        ("prajjwal1/bert-tiny", None),
        ("minilm", None),
    ],
)
def test_names_and_paths_of_bases(here, name, seen):
    config = read_config(written(here, f'[model]\nbase = "{name}"\n'))
    assert config.model.base == (str(here / seen) if seen else name)


def test_the_home_folder(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    config = read_config(written(here, '[model]\nbase = "~/minilm"\n'))
    assert config.model.base == str(here / "minilm")


def test_each_path_is_seen_from_where_it_was_written(here):
    text = '[data]\nsource = "files"\npath = "a"\n[adapter]\nstart = "s"\n[method]\nname = "m.py:M"\n'
    text += '[deploy]\nsites = 2\ntest = "t.jsonl"\n[[stage]]\nname = "st.py:S"\n[[stage]]\nname = "clip"\n'
    path = written(here, text)
    config = read_config(path, ["data.path=b", "model.base=base"])
    assert config.data.path == str(here / "place" / "b")
    assert config.model.base == str(here / "place" / "base")
    assert config.adapter.start == str(here / "file" / "s")
    assert config.method.name == f"{here / 'file' / 'm.py'}:M"
    assert [stage.name for stage in config.stage] == [f"{here / 'file' / 'st.py'}:S", "clip"]
    assert config.deploy.test == str(here / "file" / "t.jsonl")
    assert read_config(path, ["data.path=b"], folder=here).data.path == str(here / "b")
    assert read_config(Path(os.path.relpath(path))).data.path == str(here / "file" / "a")


def test_a_hubs_dataset_keeps_its_name(here):
    config = read_config(written(here, '[data]\npath = "legacy-datasets/banking77"\n'), ["data.source=hub"])
    assert config.data.path == "legacy-datasets/banking77"
    config = read_config(written(here, '[data]\nsource = "hub"\npath = "x"\n'), ["data.source=files"])
    assert config.data.path == str(here / "file" / "x")


def test_mappings_are_seen_from_the_working_directory(here):
    assert make_config({"model": {"base": "base"}}).model.base == str(here / "place" / "base")


def test_a_table_of_stages_is_not_changed_by_key(here):
    path = written(here, '[[stage]]\nname = "clip"\n')
    with pytest.raises(ConfigError, match=r"stage\.norm cannot be set: stage is no section"):
        read_config(path, ["stage.norm=2"])
