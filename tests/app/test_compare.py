"""Comparisons through the command line: shared clients, going on, failures that stop nothing else."""

import csv
import json
import shutil

import pytest

METHODS = "lora-a2,zeropad,fedsa,fedit"


def folders(out):
    return sorted(str(path.parent.relative_to(out)) for path in out.rglob("summary.json"))


def files(out):
    return {p: p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file() and p.name != "timings.jsonl"}


@pytest.fixture(scope="module")
def compared(request, small, tmp_path_factory):
    """One comparison for the tests of this file: config, words and folder."""
    import sys

    import tomli_w

    from fedlora import cli

    folder = tmp_path_factory.mktemp("compared")
    tree = {
        "run": {"rounds": 2},
        "data": {"source": "files", "path": str(small / "data")},
        "split": {"clients": 4},
        "model": {"base": str(small / "base"), "max_length": 24},
        "clients": {"ranks": [1, 5]},
        "train": {"lr": 5e-3},
        "method": {"name": "lora-a2", "pool_rank": 6},
    }
    (folder / "config.toml").write_text(tomli_w.dumps(tree))
    words = ["compare", str(folder / "config.toml"), "--methods", METHODS, "--seeds", "2", "--out", str(folder / "out")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["fedlora", *words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert not stop.value.code
    return folder, words


def test_every_method_and_seed_has_its_run(compared):
    folder, _ = compared
    expected = sorted(f"{m}/seed-{s}" for m in METHODS.split(",") for s in (0, 1))
    assert folders(folder / "out") == expected
    assert {p.name for p in (folder / "out").iterdir() if p.is_file()} == {"report.html", "table.md", "table.csv"}


def test_all_methods_of_a_seed_have_the_same_clients(compared):
    folder, _ = compared
    for seed in (0, 1):
        splits = {(folder / "out" / m / f"seed-{seed}" / "split.json").read_bytes() for m in METHODS.split(",")}
        assert len(splits) == 1
    assert (folder / "out/fedit/seed-0/split.json").read_bytes() != (
        folder / "out/fedit/seed-1/split.json"
    ).read_bytes()


def test_one_rank_for_all_is_the_mean_and_options_go_with_their_method(compared):
    folder, _ = compared
    configs = {m: (folder / "out" / m / "seed-0" / "config.toml").read_text() for m in METHODS.split(",")}
    assert "rank = 3" in configs["fedit"]
    assert "ranks" not in configs["fedit"]
    assert "pool_rank = 6" in configs["lora-a2"]
    assert not any("pool_rank" in configs[m] for m in ("zeropad", "fedsa", "fedit"))


def test_the_table_is_the_mean_over_seeds(compared):
    folder, _ = compared
    with (folder / "out" / "table.csv").open(newline="") as file:
        table = {row["method"]: row for row in csv.DictReader(file)}
    assert set(table) == set(METHODS.split(","))
    for method, row in table.items():
        own = [json.loads((folder / "out" / method / f"seed-{s}" / "summary.json").read_text()) for s in (0, 1)]
        assert float(row["personal_mean"]) == pytest.approx(sum(s["personal"]["mean"] for s in own) / 2)
        assert float(row["bytes_up"]) == sum(s["bytes_up"] for s in own) / 2
        assert (row["global_mean"] == "") == (method == "fedsa")
        assert row["ranks"] == ("3" if method == "fedit" else "1-5")


def test_done_is_done_and_what_is_missing_is_made(compared, fedlora, tmp_path):
    folder, words = compared
    before = files(folder / "out")
    code, said, _ = fedlora(*words)
    assert code == 0
    assert "8 of 8 runs are finished already" in said
    assert "round" not in said.split("the page")[0].replace("rounds", "")
    run = folder / "out" / "zeropad" / "seed-1"
    whole = files(run)
    lines = (run / "rounds.jsonl").read_bytes().splitlines(keepends=True)
    (run / "rounds.jsonl").write_bytes(lines[0])
    (run / "summary.json").unlink()
    shutil.rmtree(folder / "out" / "fedsa" / "seed-0")
    code, said, _ = fedlora(*words)
    assert code == 0
    assert "zeropad, seed 1:  round 2/2" in said
    assert "zeropad, seed 1:  round 1/2" not in said
    assert "fedsa, seed 0:  round 1/2" in said
    assert files(run) == whole
    assert files(folder / "out") == before


def test_a_changed_config_is_refused_before_anything_runs(compared, fedlora):
    folder, words = compared
    before = files(folder / "out")
    code, _, err = fedlora(*words, "--set", "train.lr=0.1")
    assert code == 2
    assert "train.lr was 0.005 and is now 0.1" in err
    assert files(folder / "out") == before


def test_a_run_that_fails_stops_no_other(config, fedlora, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import dataclass\nfrom typing import ClassVar\nfrom fedlora.methods.fedit import FedIT\n\n"
        '@dataclass(frozen=True)\nclass Mine(FedIT):\n    name: ClassVar[str] = "mine"\n\n'
        "    def receive(self, *own):\n        raise ZeroDivisionError('here')\n"
    )
    methods = f"{file}:Mine,fedit"
    code, _, err = fedlora("compare", config(), "--methods", methods, "--out", tmp_path / "out")
    assert code == 2
    assert "1 of 2 runs failed" in err
    assert "every client failed; client c0 with ZeroDivisionError: here" in err
    assert err.count("\n") == 1
    assert folders(tmp_path / "out") == ["fedit/seed-0"]
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize("methods", ["fedit,fedlt", ""])
def test_names_are_checked_first(config, fedlora, tmp_path, methods):
    code, _, err = fedlora("compare", config(), "--methods", methods, "--out", tmp_path / "out")
    assert code == 2
    assert not (tmp_path / "out").exists()
    assert ("did you mean 'fedit'" if methods else "names no method") in err


def test_a_page_of_folders(compared, fedlora, tmp_path):
    folder, _ = compared
    code, _, _ = fedlora("report", folder / "out" / "fedit", folder / "out" / "fedsa", "--out", tmp_path / "page")
    assert code == 0
    text = (tmp_path / "page" / "table.md").read_text()
    assert "| fedit |" in text
    assert "lora-a2" not in text
    assert "with --out" in fedlora("report", folder / "out" / "fedit", folder / "out" / "fedsa")[2]
    assert "holds no run" in fedlora("report", tmp_path)[2]


def test_asking_the_model(compared, fedlora):
    folder, _ = compared
    code, said, _ = fedlora("predict", folder / "out" / "lora-a2" / "seed-0", "i want to open my card", "--top", "25")
    assert code == 0
    lines = said.splitlines()
    assert lines[0] == "i want to open my card"
    assert len(lines) == 26
    chances = [float(line.split()[0]) for line in lines[1:]]
    assert chances == sorted(chances, reverse=True)
    assert sum(chances) == pytest.approx(100, abs=2)
    code, _, err = fedlora("predict", folder / "out" / "fedsa" / "seed-0", "x")
    assert code == 2
    assert "no global adapter; personal adapters: c0, c1, c2, c3" in err
    assert fedlora("predict", folder / "out" / "fedsa" / "seed-0", "x", "--client", "c2")[0] == 0


def test_rates_are_chosen_on_the_validation_part(config, fedlora, tmp_path):
    path = config(split={"validation": 0.2}, run={"rounds": 2})
    words = ("compare", path, "--methods", "fedit,local", "--rates", "1e-9,2e-2", "--rate-rounds", "3")
    code, said, err = fedlora(*words, "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    best = {}
    for method in ("fedit", "local"):
        own = {
            r: json.loads((tmp_path / f"out/rates/{method}/lr-{r}/summary.json").read_text()) for r in ("1e-09", "0.02")
        }
        best[method] = max(own, key=lambda r: (own[r]["personal"]["weighted_mean"], -own[r]["personal"]["loss"]))
        assert f"lr = {best[method]}\n" in (tmp_path / f"out/{method}/seed-0/config.toml").read_text()
    assert f"learning rates chosen on the validation part: fedit {best['fedit']}, local {best['local']}" in said
    assert best["local"] == "0.02"
    assert folders(tmp_path / "out") == [
        "fedit/seed-0", "local/seed-0", *(f"rates/{m}/lr-{r}" for m in ("fedit", "local") for r in ("0.02", "1e-09")),
    ]  # fmt: skip
    trial = json.loads((tmp_path / "out/rates/fedit/lr-0.02/rounds.jsonl").read_text().splitlines()[-1])
    owned = json.loads((tmp_path / "out/rates/fedit/lr-0.02/split.json").read_text())["clients"].values()
    assert trial["global"]["examples"] == sum(own["validation"] for own in owned)  # none of the 60 test examples
    table = (tmp_path / "out" / "table.md").read_text()
    assert table.count("| fedit |") == 1
    assert fedlora("report", tmp_path / "out")[0] == 0
    assert (tmp_path / "out" / "table.md").read_text() == table  # trials are no part of the table
    code, _, err = fedlora("compare", config(), "--methods", "fedit", "--rates", "1e-3")
    assert code == 2
    assert "split.validation is 0.0" in err
    assert "give numbers" in fedlora("compare", path, "--methods", "fedit", "--rates", "fast")[2]
