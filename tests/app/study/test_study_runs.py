"""A study that is run: whole, in parts, in several processes, killed, with failures: always the same results."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import tomli_w

import fedlora
from fedlora.app.config.sections import read_tree
from fedlora.app.study.pool import start
from fedlora.app.study.reading import named_studies, read_study
from fedlora.report.tables import size

FAULTY = '''
from dataclasses import dataclass
from typing import ClassVar
from fedlora.methods.fedit import FedIT

@dataclass(frozen=True)
class Mine(FedIT):
    """Fails."""
    name: ClassVar[str] = "mine"

    def receive(self, *given):
        raise ZeroDivisionError("here")
'''


def results(folder):
    return (folder / "trial" / "results.json").read_bytes()


def cells(folder):
    return {path.parent.name for path in folder.glob("cells/*/summary.json")}


def test_every_variant_is_told_on_every_draw(studied):
    folder, found = studied
    assert not found.failed
    told = [(c["variant"], c["draw"], c["seed"]) for c in found.results["cells"]]
    assert told == [
        (variant, draw, seed)
        for draw, seed in ((0, 0), (1, 0), (2, 0), (0, 7))
        for variant in ("fedit", "fedsa", "lora-a2")
    ]
    assert found.results["missing"] == []
    assert json.loads(results(folder)) == found.results
    assert len(cells(folder)) == 6 + 12
    assert {p.name for p in (folder / "trial").iterdir()} == {
        "results.json", "timings.json", "report.html", "table.md", "table.csv",
    }  # fmt: skip
    times = json.loads((folder / "trial" / "timings.json").read_text())
    assert [line["part"] for line in times] == ["tuning"] * 6 + ["reported"] * 12
    assert all(line["train"] > 0 for line in times)


def test_scores_and_costs_are_those_of_the_runs(studied):
    folder, found = studied
    for cell in found.results["cells"]:
        (run,) = [
            path.parent
            for path in folder.glob("cells/*/config.toml")
            if f'name = "{cell["variant"]}"' in (text := path.read_text())
            and f"seed = {cell['draw']}\n" in text.partition("[split]")[2].partition("[")[0]
            and f"seed = {cell['seed']}\n" in text.partition("[run]")[2].partition("[")[0]
            and 'part = "test"' in text
        ]
        summary = json.loads((run / "summary.json").read_text())
        assert cell["global"] == summary["global"]
        assert cell["personal"] == summary["personal"]
        assert {key: cell[key] for key in ("bytes_up", "bytes_down", "steps")} == {
            key: summary[key] for key in ("bytes_up", "bytes_down", "steps")
        }
        assert cell["curve"][-1]["bytes_up"] == summary["bytes_up"]
        assert cell["lr"] == next(
            c["lr"] for c in found.results["choices"] if c["variant"] == cell["variant"]
        )  # that which was chosen


def test_personal_and_global_models_never_stand_in_one_table(studied):
    _, found = studied
    tables = {table["scores"]: table for table in found.results["tables"]}
    assert set(tables) == {"global", "personal"}
    assert [row["variant"] for row in tables["global"]["rows"]] == ["fedit", "lora-a2"]  # fedsa has no global model
    assert [row["variant"] for row in tables["personal"]["rows"]] == ["fedit", "fedsa", "lora-a2"]
    for whose, table in tables.items():
        for row in table["rows"]:
            own = [c for c in found.results["cells"] if (c["variant"], c["seed"]) == (row["variant"], 0)]
            scores = [c[whose]["mean" if whose == "personal" else "accuracy"] for c in own]
            assert row["mean"] == pytest.approx(sum(scores) / 3)
    text = (found.folder / "table.md").read_text()
    first, second = text.split("### ")[1:]
    assert "fedsa" not in first
    assert "| fedsa |" in second


def test_the_page_and_the_frame_tell_the_same(studied):
    _, found = studied
    frame = found.table
    assert list(frame["scores"]) == ["global"] * 2 + ["personal"] * 3
    page = found.page.read_text()
    assert page.count("<table>") == 2
    assert page.count("<svg") == 2
    assert "paired over draws" in page


def test_a_finished_study_runs_nothing_again(studied, study_tree):
    folder, _ = studied
    before, stamp = results(folder), {p: p.stat().st_mtime_ns for p in folder.glob("cells/*/*")}
    fedlora.study(study_tree(), out=folder, workers=1)
    assert results(folder) == before
    assert {p: p.stat().st_mtime_ns for p in folder.glob("cells/*/*")} == stamp


def test_studies_share_their_cells(studied, study_tree, tmp_path):
    folder, _ = studied
    shutil.copytree(folder / "cells", tmp_path / "cells")
    other = study_tree(study={"name": "other", "draws": [1, 2], "extra_seeds": [], "repeated": 0})
    found = fedlora.study(other, out=tmp_path, workers=1)
    assert cells(tmp_path) == cells(folder)
    assert len(found.results["cells"]) == 6


def test_shards_merged_equal_one_run_and_so_do_processes(studied, study_tree, tmp_path, command):
    """Two shards in folders of their own, copied together; the second with two processes."""
    folder, _ = studied
    path = tmp_path / "trial.toml"
    path.write_text(tomli_w.dumps(study_tree()))
    for number, workers in ((1, 1), (2, 2)):
        out = tmp_path / str(number)
        code, said, _ = command("study", path, "--out", out, "--shard", f"{number}/2", "--workers", workers)
        assert code == 0
        assert f"shard {number} of 2 is done" in said
        assert not (out / "trial").exists()
    assert not cells(tmp_path / "1") & cells(tmp_path / "2")
    for number in (1, 2):
        shutil.copytree(tmp_path / str(number) / "cells", tmp_path / "both" / "cells", dirs_exist_ok=True)
    assert cells(tmp_path / "both") == cells(folder)
    assert command("study", path, "--out", tmp_path / "both", "--results")[0] == 0
    assert results(tmp_path / "both") == results(folder)
    for cell in cells(folder):
        ours, theirs = folder / "cells" / cell, tmp_path / "both" / "cells" / cell
        names = {p.name for p in ours.iterdir()}
        assert names == {p.name for p in theirs.iterdir()}
        assert all((ours / n).read_bytes() == (theirs / n).read_bytes() for n in names - {"timings.jsonl"})


def in_a_fork(tree, out):
    """Begin a study in a process that has everything loaded already."""
    process = multiprocessing.get_context("fork").Process(
        target=fedlora.study, args=(tree,), kwargs={"out": out, "workers": 1}
    )
    process.start()
    return process


def by_the_command(workers):
    """Begin a study as people do."""

    def begin(tree, out):
        path = out.with_suffix(".toml")
        path.write_text(tomli_w.dumps(tree))
        words = ["study", path, "--out", out, "--workers", workers]
        line = [sys.executable, "-m", "fedlora.cli", *map(str, words)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(line, **quiet, env={**os.environ, "OMP_NUM_THREADS": "1"})

    return begin


def killed(begin, tree, out, moments):
    """Kill a study whenever so many more rounds are there; returns how many cells were finished then."""
    seen = []
    for more in moments:
        before, process = progress(out), begin(tree, out)
        deadline = time.monotonic() + 600
        while progress(out) < before + more and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait() if isinstance(process, subprocess.Popen) else process.join()
        seen.append(len(cells(out)))
    return seen


def progress(out):
    return sum(path.read_bytes().count(b"\n") for path in out.glob("cells/*/rounds.jsonl"))


def test_a_killed_study_ends_on_the_same_bytes(studied, study_tree, tmp_path):
    """Three kills: of the tuning cells, and of reported ones."""
    seen = killed(in_a_fork, study_tree(), tmp_path / "out", (2, 7, 10))
    assert len(set(seen)) == 3, seen
    assert max(seen) < 18, seen
    assert not fedlora.study(study_tree(), out=tmp_path / "out", workers=1).failed
    assert results(tmp_path / "out") == results(studied[0])


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_ten_kills(studied, study_tree, tmp_path, workers):
    seen = killed(by_the_command(workers), study_tree(), tmp_path / "out", (1, 4, 2, 1, 3, 5, 1, 4, 2, 3))
    assert len(set(seen)) >= 5, seen
    assert not fedlora.study(study_tree(), out=tmp_path / "out", workers=1).failed
    assert results(tmp_path / "out") == results(studied[0])


def start_and_die(pids):
    pids.send(start().pid)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_of_a_killed_study_ends_with_it():
    """Else it would go on writing, and hold the cell's folder."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=start_and_die, args=(theirs,))
    process.start()
    pid = ours.recv()
    process.join()
    deadline = time.monotonic() + 600
    while alive(pid):
        assert time.monotonic() < deadline, "the process outlives the study"
        time.sleep(0.05)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"


def test_what_fails_is_told_and_stops_nothing_else(study_tree, tmp_path):
    (tmp_path / "mine.py").write_text(FAULTY)
    variants = [{"name": "fedit", "method": "fedit"}, {"name": "broken", "method": f"{tmp_path}/mine.py:Mine"}]
    study = {"draws": 2, "extra_seeds": [], "repeated": 0}
    found = fedlora.study(study_tree(variant=variants, study=study), out=tmp_path / "out", workers=1)
    assert [c["variant"] for c in found.results["cells"]] == ["fedit"] * 2
    assert {(m["variant"], m["draw"]) for m in found.results["missing"]} == {("broken", 0), ("broken", 1)}
    assert sum("ZeroDivisionError: here" in why for why in found.failed.values()) == 2  # both tuning cells
    assert found.failed["broken"] == "no rate could be chosen, since tuning cells failed."
    assert "2 cells of this study failed" in found.page.read_text()


def test_a_training_that_diverges_is_out_and_is_not_run_again(study_tree, tmp_path):
    tuning = {"draws": [50], "rounds": 1, "lr": [1e30, 5e-3]}
    one = [{"name": "fedit", "method": "fedit"}]
    tree = study_tree(tuning=tuning, variant=one, study={"draws": 1, "extra_seeds": [], "repeated": 0})
    found = fedlora.study(tree, out=tmp_path, workers=1)
    (choice,) = found.results["choices"]
    assert choice["lr"] == 5e-3
    assert [each["scores"][0] is None for each in choice["tried"]] == [True, False]
    (label,) = found.failed
    assert "lr 1e+30" in label
    (marker,) = tmp_path.glob("cells/*/diverged.json")
    stamp = [path.stat().st_mtime_ns for path in sorted(marker.parent.iterdir())]
    assert fedlora.study(tree, out=tmp_path, workers=1).failed == found.failed
    assert [path.stat().st_mtime_ns for path in sorted(marker.parent.iterdir())] == stamp


def test_one_method_under_two_names_is_tied(study_tree, tmp_path):
    """Heads of their own learn which labels a client has, which is much on so little training."""
    variants = [
        {"name": "fedit", "method": "fedit"},
        {"name": "again", "method": "fedit", "seed_offset": 100},
        {"name": "stuck", "method": "fedit", "adapter.head": "frozen"},
    ]
    tree = study_tree(
        variant=variants,
        study={"draws": 5, "extra_seeds": [], "repeated": 0},
        tuning=None,
        train={"lr": 5e-2},
        split={"kind": "dirichlet", "alpha": 0.02},
        adapter={"head": "private"},
    )
    found = fedlora.study(tree, out=tmp_path, workers=1)
    (table,) = [table for table in found.results["tables"] if table["scores"] == "personal"]
    compared = {row["variant"]: row["comparison"] for row in table["rows"]}
    assert compared["fedit"] is None
    assert compared["again"]["difference"] != 0.0  # it was trained with other seeds
    assert compared["again"]["verdict"] == "tied"
    assert compared["stuck"]["verdict"] == "worse"  # so that a tie is no matter of course


def test_a_dry_run_counts_what_is_run(studied, study_tree, tmp_path, command):
    folder, _ = studied
    path = tmp_path / "trial.toml"
    path.write_text(tomli_w.dumps(study_tree()))
    code, said, _ = command("study", path, "--out", tmp_path / "out", "--dry-run", "--workers", "1")
    assert code == 0
    assert f"cells        {len(cells(folder))}: 6 to choose rates from, 12 reported" in said
    assert "18 are left" in said
    assert "an estimate from a few steps" in said
    assert not (tmp_path / "out").exists()
    sent = sum(
        json.loads(path.read_text())[way]
        for path in folder.glob("cells/*/summary.json")
        for way in ("bytes_up", "bytes_down")
    )
    assert f"about {size(sent)} up and down" in said
    half = [
        int(command("study", path, "--out", folder, "--dry-run", "--shard", f"{n}/2")[1].split()[1].rstrip(":"))
        for n in (1, 2)
    ]
    assert sum(half) == len(cells(folder))
    assert "done         18, 0 are left" in command("study", path, "--out", folder, "--dry-run")[1]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "No study was named"),
        (["nonsense"], "There is no study 'nonsense'"),
        (["smoke", "--shard", "3/2"], "give which part of how many"),
        (["smoke", "--size", "large"], "this study has only one"),
        (["smoke", "--results", "--dry-run"], "--results runs nothing"),
        (["smoke", "--set", "run.rouns=3"], "did you mean 'rounds'"),
    ],
)
def test_mistakes_get_a_sentence(command, tmp_path, words, sentence):
    code, _, err = command("study", *words, "--out", tmp_path / "out")
    assert code == 2
    assert sentence in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_results_before_any_cell_are_refused(command, tmp_path):
    code, _, err = command("study", "smoke", "--out", tmp_path, "--results")
    assert code == 2
    assert "has no finished cell of the study smoke" in err


def test_every_shipped_study_can_be_read_at_every_size(command):
    for name, path in named_studies().items():
        for chosen in read_tree(path).get("size", {None: None}):
            study = read_study(path, chosen)
            assert study.about.name == name.replace("/", "-")
            assert study.about.description
    code, said, _ = command("study", "--list")
    assert code == 0
    assert set(named_studies()) == {line.partition(":")[0] for line in said.splitlines()}
