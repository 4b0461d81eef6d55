"""A race that is run: whole, again, killed, in several processes, out of time; and what it leaves."""

import csv
import json
import multiprocessing
import os
import shutil
import signal
import time
import tomllib

import pytest
import tomli_w
from tests.app.tune.conftest import ASKED

import fedlora
from fedlora.app.config.schema import make_config
from fedlora.app.study.cells import contents_of, tuning_cells
from fedlora.app.study.reading import make_study
from fedlora.statistics.paired import interval

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


def whole(folder):
    """Everything that a race leaves and that no clock decides."""
    return {name: (folder / name).read_bytes() for name in ("results.json", "trials.csv", "best.toml")}


def cells(folder):
    return {path.parent.name for path in folder.glob("cells/*/summary.json")}


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in folder.glob("cells/*/*")}


def test_who_cannot_learn_never_wins(tuned):
    _, found = tuned
    assert found.results["winner"]["lr"] == 2e-2
    for rung in found.results["rungs"]:
        best = [one["lr"] for one in rung["candidates"]]
        assert best[0] == 2e-2
    assert {one["lr"] for one in found.results["rungs"][-1]["candidates"]} == {2e-2}


def test_every_rung_has_all_its_candidates_on_draws_that_no_other_rung_used(tuned):
    _, found = tuned
    rungs = found.results["rungs"]
    assert len(rungs) >= 3
    used = [draw for rung in rungs for draw in rung["draws"]]
    assert used == list(range(5, 5 + len(used)))  # from the config's own draw on
    for rung in rungs:
        assert rung["counted"] == rung["draws"]
        assert all([trial["draw"] for trial in one["trials"]] == rung["draws"] for one in rung["candidates"])
    assert [rung["rounds"] for rung in rungs] == sorted(rung["rounds"] for rung in rungs)
    last = rungs[-1]["candidates"]
    assert len(last) == 2
    assert len({(one["method"], one["rank"]) for one in last}) == 2


def test_no_trial_is_scored_on_the_test_part(tuned):
    folder, _ = tuned
    parts = [tomllib.loads(path.read_text())["evaluate"]["part"] for path in folder.glob("cells/*/config.toml")]
    assert len(parts) > 10
    assert set(parts) == {"validation"}


def test_the_difference_is_that_of_the_last_rungs_draws(tuned):
    _, found = tuned
    first, second = found.results["rungs"][-1]["candidates"]
    assert (first["label"], second["label"]) == (found.results["winner"]["label"], found.results["runner_up"]["label"])
    scores = [{trial["draw"]: trial["score"] for trial in one["trials"]} for one in (first, second)]
    differences = [scores[0][draw] - scores[1][draw] for draw in scores[0]]
    comparison = found.results["comparison"]
    assert comparison["draws"] == len(differences) == 3
    assert comparison["difference"] == pytest.approx(sum(differences) / 3)
    assert (comparison["low"], comparison["high"]) == pytest.approx(interval(differences))
    tied = comparison["low"] <= 0.0 <= comparison["high"]
    assert ("is tied with" in found.sentence) == tied


def test_the_rows_of_the_table_are_the_trials(tuned):
    folder, found = tuned
    with (folder / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found.trials)
    assert (
        len({(row["method"], row["lr"], row["lr_b_ratio"], row["rounds"], row["draw"]) for row in rows})
        == (found.results["trials"])
    )
    assert {row["rung"] for row in rows} == {"0", "1", "2", "3"}
    assert json.loads((folder / "results.json").read_text()) == found.results


def test_the_config_that_comes_out_runs_as_it_is(tuned, tune_tree, command, tmp_path):
    folder, found = tuned
    text = (folder / "best.toml").read_text()
    assert found.sentence in text
    was, now = make_config(tune_tree()), found.config
    winner = found.results["winner"]
    assert (now.method.name, now.adapter.rank, now.train.lr) == (winner["method"], winner["rank"], winner["lr"])
    assert (now.data, now.split, now.model, now.run, now.evaluate) == (
        was.data,
        was.split,
        was.model,
        was.run,
        was.evaluate,
    )
    code, said, err = command("run", folder / "best.toml", "--out", tmp_path / "run", "--workers", "1")
    assert code == 0, err
    assert "done: accuracy" in said


def test_the_same_command_again_runs_nothing(tuned, tune_tree):
    folder, _ = tuned
    before, then = whole(folder), stamps(folder)
    fedlora.tune(tune_tree(), out=folder, workers=1, **ASKED)
    assert whole(folder) == before
    assert stamps(folder) == then


def test_more_minutes_use_the_trials_that_are_there(tuned, tune_tree, tmp_path):
    shutil.copytree(tuned[0], tmp_path / "out")
    then = stamps(tmp_path / "out")
    found = fedlora.tune(tune_tree(), out=tmp_path / "out", workers=1, **ASKED | {"minutes": 40})
    assert stamps(tmp_path / "out") == then
    assert found.results["rungs"] == tuned[1].results["rungs"]


def test_a_trial_is_the_cell_of_a_study(tuned, tune_tree):
    """A study that chooses rates on the first draw finds these cells done."""
    tree = tune_tree()
    rates = {"draws": [5], "rounds": 2, "lr": [1e-9, 2e-2]}
    variants = [{"name": name, "method": name} for name in ("fedit", "ffa")]
    del tree["split"]["seed"], tree["run"]["name"], tree["method"]
    study = {"name": "mine", "reference": "fedit", "draws": [1]}
    whole_study = make_study({**tree, "study": study, "tuning": rates, "variant": variants}, tuned[0])
    keys = {cell.key for cell in tuning_cells(whole_study, contents_of)}
    assert len(keys) == 4
    assert keys <= cells(tuned[0])


def in_a_fork(tree, out):
    """Begin a race in a process that has everything loaded already."""
    process = multiprocessing.get_context("fork").Process(
        target=fedlora.tune, args=(tree,), kwargs={"out": out, "workers": 1, **ASKED}
    )
    process.start()
    return process


@pytest.mark.parametrize(
    ("moments", "workers"),
    [
        pytest.param((9,), 1, id="once"),  # takes as long as a whole race, which is what has to be compared
        pytest.param((2, 8, 8), 2, id="on every rung", marks=pytest.mark.slow),
    ],
)
def test_a_killed_race_ends_on_the_same_bytes(tuned, tune_tree, tmp_path, moments, workers):
    """However often it is killed, and whatever number of processes does the rest."""
    out, seen = tmp_path / "out", []
    for more in moments:
        before, process = len(cells(out)), in_a_fork(tune_tree(), out)
        deadline = time.monotonic() + 300
        while len(cells(out)) < before + more and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        seen.append(len(cells(out)))
    assert len(set(seen)) == len(moments), seen
    assert max(seen) < len(cells(tuned[0])), seen
    fedlora.tune(tune_tree(), out=out, workers=workers, **ASKED)
    assert whole(out) == whole(tuned[0])
    assert cells(out) == cells(tuned[0])


def test_a_race_out_of_time_ends_with_what_is_there(tuned, tune_tree, tmp_path):
    """Its record, as it was at the end of the first rung, and no second left."""
    out = tmp_path / "out"
    shutil.copytree(tuned[0], out)
    record = json.loads((out / "race.json").read_text())
    record["rungs"], record["spent"] = record["rungs"][:1], 60.0 * ASKED["minutes"]
    (out / "race.json").write_text(json.dumps(record))
    found = fedlora.tune(tune_tree(), out=out, workers=1, **ASKED)
    assert found.results["rungs"] == tuned[1].results["rungs"][:1]
    assert found.results["comparison"] is None
    assert "no interval" in found.sentence
    assert found.config.train.lr == 2e-2


def test_a_rung_out_of_time_counts_the_draws_that_all_have(tuned, tune_tree, tmp_path):
    """Its record in the middle of the last rung, no second left, and one trial of its third draw missing."""
    out = tmp_path / "out"
    shutil.copytree(tuned[0], out)
    record = json.loads((out / "race.json").read_text())
    last = record["rungs"][-1]
    for key in ("trials", "failed", "task"):
        del last[key]
    last["ended"], record["spent"] = False, 60.0 * ASKED["minutes"]
    (out / "race.json").write_text(json.dumps(record))
    (gone,) = [
        path.parent
        for path in out.glob("cells/*/config.toml")
        if (tree := tomllib.loads(path.read_text()))["split"]["seed"] == last["draws"][2]
        and tree["method"]["name"] == last["field"][0]["method"]
        and tree["adapter"]["rank"] == last["field"][0]["rank"]
        and tree["train"]["lr"] == last["field"][0]["lr"]
        and tree["train"].get("lr_b_ratio") == last["field"][0]["lr_b_ratio"]
    ]
    shutil.rmtree(gone)
    found = fedlora.tune(tune_tree(), out=out, workers=1, **ASKED)
    assert not gone.exists()  # nothing was begun
    assert found.results["rungs"][-1]["counted"] == last["draws"][:2]
    assert found.results["comparison"]["draws"] == 2


def test_a_budget_leaves_out_who_sends_more(tuned, tune_tree, tmp_path):
    """Its trials are those of a race without one, as far as the candidates are the same."""
    out = tmp_path / "out"
    shutil.copytree(tuned[0], out)
    last = tuned[1].results["rungs"][1]
    sent = {one["method"]: one["trials"][0]["bytes_up"] + one["trials"][0]["bytes_down"] for one in last["candidates"]}
    assert sent["ffa"] < sent["fedit"]
    with pytest.raises(fedlora.UserError, match="the cheapest candidate sends"):
        fedlora.tune(tune_tree(), out=out, workers=1, budget=sent["ffa"] - 1, **ASKED)
    found = fedlora.tune(tune_tree(), out=out, workers=1, budget=sent["ffa"], **ASKED)
    assert {one["method"] for rung in found.results["rungs"] for one in rung["candidates"]} == {"ffa"}
    assert "more than the budget" in found.results["left_out"]["fedit, rank 2"]
    assert found.results["runner_up"]["lr"] == 1e-9  # its other rate
    assert found.results["winner"]["lr"] == 2e-2


def test_judged_by_personal_models_private_parts_race_too(tune_tree, tmp_path):
    asked = ASKED | {"methods": ["fedit", "fedsa"], "lr": [2e-2], "draws": 2}
    tree = tune_tree(adapter={"head": "private"})
    found = fedlora.tune(tree, out=tmp_path, workers=1, **asked)
    assert found.results["asked"]["judge"] == "personal"
    assert {one["method"] for one in found.results["rungs"][-1]["candidates"]} == {"fedit", "fedsa"}


def test_what_fails_is_out_and_told(tune_tree, tmp_path):
    (tmp_path / "mine.py").write_text(FAULTY)
    asked = ASKED | {"methods": ["fedit", f"{tmp_path}/mine.py:Mine"], "draws": 2}
    found = fedlora.tune(tune_tree(), out=tmp_path / "out", workers=1, **asked)
    assert "ZeroDivisionError: here" in found.results["left_out"]["mine.py:Mine"]
    assert {one["method"] for rung in found.results["rungs"] for one in rung["candidates"]} == {"fedit"}


def test_a_rate_at_which_training_diverges_is_out(tune_tree, tmp_path):
    asked = ASKED | {"methods": ["fedit"], "lr": [1e-2, 2e-2, 1e30], "draws": 2}
    found = fedlora.tune(tune_tree(), out=tmp_path, workers=1, **asked)
    (bad,) = [one for one in found.results["rungs"][0]["candidates"] if one["lr"] == 1e30]
    assert not bad["counts"]
    assert bad["failed"]
    assert found.results["winner"]["lr"] < 1


@pytest.mark.parametrize(
    ("sections", "words", "sentence"),
    [
        ({"split": {"validation": 0.0}}, [], "split.validation is 0.0"),
        ({}, ["--minutes", "0.001"], "minutes are too few for one rung"),
        ({}, ["--methods", "fedti"], "did you mean 'fedit'"),
        ({}, ["--lr", "fast"], "--lr is 'fast'"),
        ({}, ["--ranks", "2.5"], "--ranks is '2.5'"),
        ({}, ["--budget", "little"], "such as 20MB"),
        ({}, ["--judge", "global", "--methods", "fedsa"], "it has no global model"),
        ({}, ["--methods", "ffa", "--ranks", "2", "--lr", "1e-2"], "There is one candidate alone"),
    ],
)
def test_mistakes_get_a_sentence(tune_tree, command, tmp_path, sections, words, sentence):
    path = tmp_path / "mine.toml"
    path.write_text(tomli_w.dumps(tune_tree(**sections)))
    minutes = [] if "--minutes" in words else ["--minutes", "30"]
    code, _, err = command("tune", path, *minutes, *words, "--out", tmp_path / "out", "--workers", "1")
    assert code == 2, err
    assert sentence in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out" / "best.toml").exists()


def test_a_folder_of_another_config_is_refused(tuned, tune_tree, command, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(tomli_w.dumps(tune_tree(split={"clients": 4})))
    code, _, err = command("tune", path, "--minutes", "30", "--out", tuned[0])
    assert code == 2
    assert "holds the tuning of another config" in err


def test_the_command_tells_the_choice(tuned, tune_tree, command, tmp_path):
    shutil.copytree(tuned[0], tmp_path / "out")
    path = tmp_path / "mine.toml"
    path.write_text(tomli_w.dumps(tune_tree()))
    words = ["--methods", "fedit,ffa", "--ranks", "2", "--lr", "1e-9,2e-2", "--draws", "3"]
    code, said, _ = command("tune", path, "--minutes", "30", *words, "--out", tmp_path / "out", "--workers", "1")
    assert code == 0
    found = tuned[1]
    assert f"winner       {found.results['winner']['label']}" in said
    assert f"runner-up    {found.results['runner_up']['label']}" in said
    assert found.sentence in said
    assert f"{found.results['trials']} trials" in said
    assert str(tmp_path / "out" / "best.toml") in said
