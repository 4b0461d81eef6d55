"""Paths, longer runs, damaged files and exported models: what newcomers and an attacker met."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import tomli_w
from tests import warm

ENTRY = "import sys; from fedlora.cli import main; sys.argv[0] = 'fedlora'; main()"


@pytest.fixture
def project(small, tmp_path):
    """A folder with data, base and a config whose paths are all relative; `change` rewrites keys of the config."""
    folder = tmp_path / "project"
    shutil.copytree(small, folder)
    (folder / "mine.py").write_text(
        "from dataclasses import dataclass\nfrom typing import ClassVar\n"
        "from fedlora.methods.fedit import FedIT\n\n@dataclass(frozen=True)\nclass Mine(FedIT):\n"
        '    name: ClassVar[str] = "mine"\n'
    )
    tree = {
        "run": {"rounds": 2, "name": "small"},
        "data": {"source": "files", "path": "data"},
        "split": {"clients": 3},
        "model": {"base": "base", "max_length": 24},
        "adapter": {"rank": 2},
        "train": {"lr": 5e-3},
        "method": {"name": "fedit"},
    }
    (folder / "config.toml").write_text(tomli_w.dumps(tree))
    return folder


def change(project, **sections):
    path = project / "config.toml"
    tree = tomllib.loads(path.read_text())
    for section, keys in sections.items():
        tree[section] = {**tree.get(section, {}), **keys}
    path.write_text(tomli_w.dumps(tree))
    return path


def command(line, folder):
    """A line of a page or of a shell, in a folder."""
    return warm.run(*shlex.split(line)[1:], cwd=folder)


def tree(folder):
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "timings.jsonl"]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def read(path):
    return json.loads(path.read_text())


@pytest.mark.defect("R1")
def test_the_pages_command_makes_the_same_numbers_from_its_folder(project, fedlora, monkeypatch, tmp_path):
    monkeypatch.chdir(project)
    assert fedlora("run", "config.toml", "--out", "runs/one")[0] == 0
    page = (project / "runs" / "one" / "report.html").read_text()
    line = re.search(r"fedlora run [^<]*", page)[0].strip()
    done = command(line, project / "runs" / "one")
    assert done.returncode == 0, done.stderr
    again = project / "runs" / "one" / line.split("--out ")[1]
    assert (again / "rounds.jsonl").read_bytes() == (project / "runs" / "one" / "rounds.jsonl").read_bytes()
    assert read(again / "summary.json") == read(project / "runs" / "one" / "summary.json")


@pytest.mark.defect("R1")
@pytest.mark.parametrize("method", ["fedit", "mine.py:Mine"])
def test_the_paths_of_a_config_are_seen_from_its_folder(project, fedlora, monkeypatch, tmp_path, method):
    assert (
        fedlora("run", change(project), "--set", f"data.path={project / 'data'}", "--out", tmp_path / "start")[0] == 0
    )
    shutil.copytree(tmp_path / "start" / "adapter", project / "start")
    change(project, adapter={"start": "start"}, method={"name": method})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, _, err = fedlora("run", "../project/config.toml", "--out", "out")
    assert (code, err) == (0, "")
    code, _said, err = fedlora("compare", "../project/config.toml", "--methods", "ffa", "--out", "both")
    assert code == 0, err


def test_the_paths_of_the_command_line_are_seen_from_where_it_is(project, fedlora, monkeypatch, tmp_path):
    change(project, data={"path": "nothing-is-here"}, model={"base": "nor-here"})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    words = ("--set", "data.path=../project/data", "--set", "model.base=../project/base")
    code, _, err = fedlora("run", "../project/config.toml", *words, "--out", "out")
    assert (code, err) == (0, "")


@pytest.mark.defect("R2")
def test_a_run_is_asked_and_gone_on_with_from_any_folder(project, fedlora, monkeypatch, tmp_path):
    (project / "inner").mkdir()
    shutil.move(project / "config.toml", project / "inner" / "config.toml")
    change(project / "inner", data={"path": "../data"}, model={"base": "../base"})
    monkeypatch.chdir(project / "inner")
    assert fedlora("run", "config.toml", "--out", tmp_path / "out")[0] == 0
    asked = fedlora("predict", tmp_path / "out", "where is my card")
    assert asked[0] == 0
    monkeypatch.chdir(tmp_path)
    assert fedlora("predict", "out", "where is my card") == asked
    before = tree(tmp_path / "out")
    (tmp_path / "out" / "summary.json").unlink()
    assert fedlora("run", "--resume", "--out", "out")[0] == 0
    assert tree(tmp_path / "out") == before


@pytest.mark.defect("R2")
def test_a_base_that_has_moved_is_named(project, fedlora, tmp_path):
    out = tmp_path / "out"
    assert (
        fedlora(
            "run",
            change(project, data={"path": str(project / "data")}, model={"base": str(project / "base")}),
            "--out",
            out,
        )[0]
        == 0
    )
    asked = fedlora("predict", out, "where is my card")
    shutil.move(project / "base", tmp_path / "moved")
    code, _, err = fedlora("predict", out, "where is my card")
    assert code == 2
    assert f"model.base is '{project / 'base'}'" in err
    assert "there is no such folder" in err
    assert "--base" in err
    assert fedlora("predict", out, "where is my card", "--base", tmp_path / "moved") == asked


@pytest.mark.defect("R2")
def test_a_project_that_has_moved_goes_on(project, fedlora, tmp_path):
    """What the paths lead to is compared by content."""
    change(project, run={"rounds": 3}, data={"path": str(project / "data")}, model={"base": str(project / "base")})
    assert fedlora("run", project / "config.toml", "--out", project / "out")[0] == 0
    before = tree(project / "out")
    (project / "out" / "summary.json").unlink()
    moved = tmp_path / "moved"
    shutil.move(project, moved)
    change(moved, data={"path": str(moved / "data")}, model={"base": str(moved / "base")})
    code, _, err = fedlora("run", moved / "config.toml", "--out", moved / "out", "--resume")
    assert (code, err) == (0, "")
    after = tree(moved / "out")
    assert {name for name in before if before[name] != after[name]} <= {
        "config.toml", "adapter/README.md", "adapter/fedlora.json", "adapter/adapter_config.json", "report.html"
    }  # fmt: skip


@pytest.mark.defect("R2")
@pytest.mark.parametrize("base", ["./minilm", "../minilm", "~/minilm-that-is-not-there"])
def test_a_base_that_is_clearly_a_path_and_not_there_is_a_plain_sentence(project, fedlora, tmp_path, base):
    code, _, err = fedlora(
        "run", change(project, model={"base": base}, data={"path": str(project / "data")}), "--out", tmp_path / "out"
    )
    assert code == 2
    assert "there is no such folder" in err
    assert "Repo id" not in err


@pytest.mark.defect("R12")
@pytest.mark.parametrize(
    "changes",
    [
        {"method": {"name": "lora-a2"}, "clients": {"ranks": [1, 2], "per_round": 2}},
        {"method": {"name": "fedsa"}},
        {"evaluate": {"every": 3}, "clients": {"per_round": 2}},
    ],
    ids=["lora-a2", "fedsa", "scored-now-and-then"],
)
def test_a_finished_run_goes_on_for_more_rounds_as_if_it_had_been_as_long(config, fedlora, tmp_path, changes):
    assert fedlora("run", config(**changes, run={"rounds": 4}), "--out", tmp_path / "whole")[0] == 0
    path = config(**changes, run={"rounds": 2})
    assert fedlora("run", path, "--out", tmp_path / "out")[0] == 0
    code, said, err = fedlora("run", path, "--out", tmp_path / "out", "--resume", "--set", "run.rounds=4")
    assert code == 0, err
    assert "going on after round 2" in said
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@pytest.mark.defect("R12")
def test_a_longer_run_that_is_killed_goes_on(config, fedlora, tmp_path):
    """With the command of the longer run, and with the config that its folder has."""
    assert fedlora("run", config(run={"rounds": 5}), "--out", tmp_path / "whole")[0] == 0
    path = config(run={"rounds": 2})
    assert fedlora("run", path, "--out", tmp_path / "out")[0] == 0
    longer = ("run", path, "--out", tmp_path / "out", "--resume", "--set", "run.rounds=5")
    script = (
        "import os, sys\nimport fedlora.federation.journal as journal\n"
        "append, count = journal.append_lines, [0]\n"
        "def dying(path, *lines):\n"
        "    append(path, *lines)\n"
        "    if path.name == 'rounds.jsonl':\n"
        "        os._exit(9)\n"
        "journal.append_lines = dying\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script + ENTRY, *map(str, longer)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 9, done.stderr
    assert len((tmp_path / "out" / "rounds.jsonl").read_text().splitlines()) == 3
    assert not (tmp_path / "out" / "summary.json").exists()
    code, said, _ = fedlora("run", "--out", tmp_path / "out", "--resume")
    assert code == 0
    assert "going on after round 3" in said
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@pytest.mark.defect("R12")
def test_a_comparison_becomes_longer(config, fedlora, tmp_path):
    words = ("compare", config(), "--methods", "fedit,ffa", "--out", tmp_path / "out")
    assert fedlora(*words)[0] == 0
    code, said, err = fedlora(*words, "--set", "run.rounds=3")
    assert code == 0, err
    assert "runs are finished already" not in said
    assert read(tmp_path / "out" / "ffa" / "seed-0" / "summary.json")["rounds"] == 3


@pytest.mark.defect("R12")
def test_a_run_becomes_no_shorter_and_no_longer_under_a_schedule(config, fedlora, tmp_path):
    path = config()
    assert fedlora("run", path, "--out", tmp_path / "out")[0] == 0
    before = tree(tmp_path / "out")
    code, _, err = fedlora("run", path, "--out", tmp_path / "out", "--resume", "--set", "run.rounds=1")
    assert code == 2
    assert "run.rounds was 2 and is now 1. A run can become longer and not shorter" in err
    code, _, err = fedlora(
        "run", path, "--out", tmp_path / "out", "--resume", "--set", "run.rounds=3", "--set", "train.lr=1e-3"
    )
    assert code == 2
    assert "train.lr was 0.005 and is now 0.001" in err
    assert tree(tmp_path / "out") == before
    for number, train in enumerate(({"schedule": "linear"}, {"warmup": 0.5})):
        path, out = config(train={"lr": 5e-3, **train}), tmp_path / str(number)
        assert fedlora("run", path, "--out", out)[0] == 0
        code, _, err = fedlora("run", path, "--out", out, "--resume", "--set", "run.rounds=3")
        assert code == 2
        assert "cannot become longer, from 2 to 3 rounds" in err


@pytest.mark.defect("R13")
def test_an_exported_adapter_loads_by_its_own_card_anywhere(project, fedlora, monkeypatch, tmp_path):
    monkeypatch.chdir(project)
    assert fedlora("run", "config.toml", "--out", tmp_path / "out")[0] == 0
    assert fedlora("export", tmp_path / "out", tmp_path / "mine")[0] == 0
    card = (tmp_path / "mine" / "README.md").read_text()
    labels = read(tmp_path / "mine" / "fedlora.json")["labels"]
    assert read(tmp_path / "mine" / "adapter_config.json")["base_model_name_or_path"] == str(project / "base")
    script = card.split("```python\n")[1].split("```")[0].replace("path/to/this/folder", str(tmp_path / "mine"))
    (tmp_path / "elsewhere").mkdir()
    script += "\nprint(json.dumps([model.config.id2label[n] for n in range(len(labels))]))\n"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path / "elsewhere", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == labels


@pytest.mark.defect("R13")
@pytest.mark.parametrize("method", ["fedit", "full"])
def test_the_files_of_an_exported_model_have_one_mode(config, fedlora, tmp_path, method):
    old = os.umask(0o022)
    try:
        assert fedlora("run", config(method={"name": method}), "--out", tmp_path / "out")[0] == 0
        assert fedlora("export", tmp_path / "out", tmp_path / "mine")[0] == 0
    finally:
        os.umask(old)
    assert {path.name: oct(path.stat().st_mode)[-3:] for path in (tmp_path / "mine").iterdir()} == {
        path.name: "644" for path in (tmp_path / "mine").iterdir()
    }


def unfinished(config, fedlora, tmp_path, **changes):
    """A run whose last round has no line, as a kill leaves it."""
    path, out = config(run={"rounds": 3}, **changes), tmp_path / "out"
    assert fedlora("run", path, "--out", out)[0] == 0
    lines = (out / "rounds.jsonl").read_bytes().splitlines(keepends=True)
    (out / "rounds.jsonl").write_bytes(b"".join(lines[:2]))
    (out / "summary.json").unlink()
    return path, out


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)


@pytest.mark.defect("S11")
def test_a_flipped_bit_in_a_checkpoint_is_seen(config, fedlora, tmp_path):
    path, out = unfinished(config, fedlora, tmp_path)
    newest = sorted((out / "checkpoints").iterdir())[0]
    whole = newest.read_bytes()
    for place in (-2, -200, -len(whole) // 2):
        flip(newest, place)
        code, _, err = fedlora("run", path, "--out", out, "--resume")
        assert code == 2, f"a flip at {place} was used"
        assert "is damaged" in err
        newest.write_bytes(whole)
    assert fedlora("run", path, "--out", out, "--resume")[0] == 0


@pytest.mark.defect("S11")
def test_a_flipped_bit_in_what_a_client_keeps_is_seen(config, fedlora, tmp_path):
    path, out = unfinished(config, fedlora, tmp_path, method={"name": "fedsa"})
    folder = next(place for place in (out / "client_states", out / "memories") if place.is_dir())
    for blob in (folder / "blobs").iterdir():
        flip(blob, -2)
    code, _, err = fedlora("run", path, "--out", out, "--resume")
    assert code == 2
    assert "is damaged" in err


@pytest.mark.defect("S11")
def test_a_zeroed_token_cache_is_made_again(config, fedlora, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert fedlora("run", config(), "--out", tmp_path / "one")[0] == 0
    cached = list((tmp_path / "cache").rglob("ids"))
    assert cached
    for path in cached:
        path.write_bytes(bytes(path.stat().st_size))
    assert fedlora("run", config(), "--out", tmp_path / "two")[0] == 0
    assert tree(tmp_path / "two") == tree(tmp_path / "one")
    assert all(any(path.read_bytes()) for path in cached)


def owned_by(small, folder, names):
    """The small run's data with other names of owners."""
    folder.mkdir()
    for part in ("train", "test"):
        rows = [json.loads(line) for line in (small / "data" / f"{part}.jsonl").read_text().splitlines()]
        for number, row in enumerate(rows):
            row["ward"] = names[number % len(names)]
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


@pytest.mark.defect("S17")
def test_owners_called_like_folders_keep_to_their_own(config, fedlora, small, tmp_path):
    names = ["..", ".", "ward", "." * 3, "x" * 300, "x" * 299 + "y"]
    path = config(
        data={"path": owned_by(small, tmp_path / "data", names)},
        split={"kind": "natural", "column": "ward"},
        method={"name": "replicate"},
        adapter={"head": "shared"},
        clients={"ranks": [1, 2]},
    )
    code, _, err = fedlora("run", path, "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    assert read(tmp_path / "out" / "adapter" / "fedlora.json")["client"] is None
    homes = list((tmp_path / "out" / "clients").iterdir())
    kept = {read(home / "adapter" / "fedlora.json")["client"] for home in homes}
    assert len(kept) == len(homes)
    assert kept <= set(names)
    for name in kept:
        assert fedlora("export", tmp_path / "out", tmp_path / f"mine-{names.index(name)}", "--client", name)[0] == 0
    (tmp_path / "out" / "summary.json").unlink()
    assert fedlora("run", path, "--out", tmp_path / "out", "--resume")[0] == 0


@pytest.mark.defect("S17")
@pytest.mark.parametrize("name", ["", "  "])
def test_an_owner_without_a_name_is_refused(config, fedlora, small, tmp_path, name):
    data = owned_by(small, tmp_path / "data", ["a", name, "b"])
    path = config(data={"path": data}, split={"kind": "natural", "column": "ward"})
    code, _, err = fedlora("run", path, "--out", tmp_path / "out")
    assert code == 2
    assert "row 2 of the train part" in err
    assert "'ward'" in err


@pytest.mark.defect("S21")
def test_an_exported_tokenizer_does_not_depend_on_the_cache(config, fedlora, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("cold", "warm"):
        assert fedlora("run", config(method={"name": "full"}), "--out", tmp_path / name)[0] == 0
    assert tree(tmp_path / "cold") == tree(tmp_path / "warm")
    told = read(tmp_path / "cold" / "model" / "tokenizer.json")
    assert (told["truncation"], told["padding"]) == (None, None)


def test_paths_in_a_made_config_are_seen_from_its_folder(project, fedlora, monkeypatch, tmp_path):
    """`init` for data here and a config there."""
    monkeypatch.chdir(project)
    (project / "made").mkdir()
    assert fedlora("init", "data", "--label", "label", "--out", "made/mine.toml")[0] == 0
    monkeypatch.chdir(tmp_path)
    words = ("--set", f"model.base={project / 'base'}", "--set", "run.rounds=1", "--set", "split.clients=2")
    code, _, err = fedlora("run", project / "made" / "mine.toml", *words, "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    assert Path(tomllib.loads((tmp_path / "out" / "config.toml").read_text())["data"]["path"]) == project / "data"


@pytest.mark.defect("S21")
def test_a_comparison_makes_the_page_that_a_kill_left_out(config, fedlora, tmp_path):
    words = ("compare", config(), "--methods", "fedit", "--out", tmp_path / "out")
    assert fedlora(*words)[0] == 0
    page = tmp_path / "out" / "fedit" / "seed-0" / "report.html"
    before = page.read_bytes()
    page.unlink()  # as after a kill between summary and page
    assert fedlora(*words)[0] == 0
    assert page.is_file()
    assert page.read_bytes() == before
