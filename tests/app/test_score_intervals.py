"""Scores of answers are shown with their intervals: in the summary, on the page, in tables and at the end of a run."""

import json
import re
import shutil

import pytest
import tomli_w
from tests.text_data import rows, text_tree, write_decoder, write_rows

import fedlora as package
from fedlora.errors import RunFolderError
from fedlora.report.page import write_report
from fedlora.training.metrics.intervals import wilson


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("intervals")
    write_decoder(folder / "base")
    wrong = ("The mat is green.", "The cat is blue.", "The house is red and white.")
    found = [{**row, "choices": [row["completion"], f"{wrong[n % 3]}!"]} for n, row in enumerate(rows(120))]
    write_rows(folder / "data" / "all.jsonl", found)
    return folder


def tree(home, method="fedit", **sections):
    natural = {"kind": "natural", "column": "site", "test_by": "random", "unseen": 1}
    evaluate = {"metrics": ["choice_per_byte", "choice", "chrf"], "most_new_tokens": 4}
    data = {"path": str(home / "data" / "all.jsonl"), "test_share": 0.4}
    sections = {"run": {"rounds": 1}, **sections}
    return text_tree(home, method={"name": method}, data=data, split=natural, evaluate=evaluate, **sections)


@pytest.fixture(scope="module")
def compared(home):
    return package.compare(tree(home), methods=["fedit", "fedsa"], out=home / "compared", workers=1)


def lines_of(folder):
    return [json.loads(line) for line in (folder / "generations.jsonl").read_text().splitlines()]


def test_every_interval_is_of_the_score_that_stands_under_its_name(compared):
    for run in compared.runs:
        summary = json.loads((run.folder / "summary.json").read_text())
        ends, whose = summary["intervals"], {"personal": summary["personal"], "global": summary["global"]}
        for name in ("choice_per_byte", "choice", "chrf"):
            headline = name == "choice_per_byte"
            for part, scores in whose.items():
                if scores is None:
                    assert part not in ends
                    continue
                value = scores["mean" if headline and part == "personal" else name]
                low, high = ends[part][name]
                assert low <= value <= high, (part, name)
            for part in ("over_clients", "unseen_clients"):
                for kind, (low, high) in ends[part][name].items():
                    assert low <= summary[part][name][kind] <= high, (part, name, kind)
    unseen = [line["sums"]["choice"] for line in lines_of(run.folder) if line["part"] == "unseen"]
    whole = wilson(sum(unseen), len(unseen))
    assert ends["unseen_clients"]["choice"]["weighted_mean"] == pytest.approx([whole.low, whole.high])
    pooled = [line["sums"]["choice"] for line in lines_of(run.folder) if line["part"] == "test"]
    whole = wilson(sum(pooled), len(pooled))
    assert ends["personal"]["choice"] == pytest.approx([whole.low, whole.high])


def test_page_and_tables_show_them(compared):
    folder = compared.runs[0].folder
    summary = json.loads((folder / "summary.json").read_text())
    page, table = (compared.folder / "report.html").read_text(), (compared.folder / "table.md").read_text()
    for part, name in (("global", "choice_per_byte"), ("personal", "choice_per_byte"), ("personal", "choice")):
        low, high = (f"{100 * end:.1f}" for end in summary["intervals"][part][name])
        assert f"<small>{low} to {high}</small>" in page
        assert f" ({low} to {high}) |" in table
    for kind in ("mean", "weighted_mean"):
        low, high = (f"{100 * end:.1f}" for end in summary["intervals"]["unseen_clients"]["choice"][kind])
        assert f"<small>{low} to {high}</small>" in page.partition("<h2>Clients</h2>")[2]
        assert f" ({low} to {high}) |" in table
    assert page.count("Below a score: 95 % interval over the test examples") == 2
    assert "In brackets: 95 % interval over the test examples" in table


def test_commands_tell_them(home, compared, tmp_path, fedlora):
    (tmp_path / "config.toml").write_text(tomli_w.dumps(tree(home)))
    code, out, err = fedlora("run", tmp_path / "config.toml", "--out", tmp_path / "run")
    assert code == 0, err
    between = r"[\d.]+ % \([\d.]+ to [\d.]+\)"
    assert re.search(rf"done: choice_per_byte {between} of the global model, {between} of the clients' models", out)
    code, out, err = fedlora("compare", tmp_path / "config.toml", "--methods", "fedit,fedsa", "--out", compared.folder)
    assert code == 0, err
    assert re.search(r"\nfedit +[\d.]+ \([\d.]+ to [\d.]+\) +[\d.]+ \([\d.]+ to [\d.]+\) ", out)
    assert "In brackets: 95 % interval over the test examples" in " ".join(out.split())


def test_over_several_seeds_the_spread_of_the_seeds_is_shown_instead(home, compared, tmp_path):
    other = tmp_path / "seed-1"
    for _ in package.run(tree(home, run={"seed": 1, "rounds": 1}), out=other, workers=1):
        pass
    write_report([compared.runs[0].folder, other], tmp_path)
    assert " ± " in (tmp_path / "table.md").read_text()
    assert "In brackets" not in (tmp_path / "table.md").read_text()
    assert "Below a score" not in (tmp_path / "report.html").read_text()


def test_a_run_that_has_gone_on_shows_none_until_it_ends(home, tmp_path):
    for _ in package.run(tree(home, run={"rounds": 1}), out=tmp_path / "run", workers=1):
        pass
    run = package.run(tree(home, run={"rounds": 3}), out=tmp_path / "run", resume=True, workers=1)
    next(iter(run.rounds()))
    write_report([tmp_path / "run"], tmp_path / "page")
    assert "In brackets" not in (tmp_path / "page" / "table.md").read_text()


@pytest.mark.parametrize("told", [{"personal": {"choice": "high"}}, {"unseen_clients": {"choice": [0.0, 1.0]}}, 3])
def test_damaged_intervals_are_told_in_a_sentence(compared, tmp_path, told):
    run = tmp_path / "run"
    shutil.copytree(compared.runs[0].folder, run)
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**summary, "intervals": told}))
    with pytest.raises(RunFolderError, match=r"summary\.json is damaged"):
        write_report([run], tmp_path / "page")
