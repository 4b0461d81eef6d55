"""The page comes after everything else of a run, and a run whose page fails has not failed."""

import json
import shutil
from pathlib import Path

import pytest

import fedlora

MADE_AGAIN = "the run itself is complete, and `fedlora report"
STRANGE = {"open_account": "$100% & $50%", "open_card": "a\x00b\uffff", "close_card": "\u202e$", "close_account": "🙂"}


def in_the_way(folder):
    """A folder where the page should go: no page can be written there."""
    (folder / "report.html").mkdir()


def strange_data(small, folder):
    """The small run's data with labels and owners that nobody expects; fourteen of them are as they were."""
    folder.mkdir()
    for part in ("train", "test"):
        rows = [json.loads(line) for line in (small / "data" / f"{part}.jsonl").read_text().splitlines()]
        for row in rows:
            row["label"] = STRANGE.get(row["label"], row["label"])
            row["ward"] = {"ward/0": "from $5 to $10", "ward/1": "\ufffe", "ward/2": "ward"}[row["ward"]]
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def test_strange_labels_and_owners_end_in_a_page(config, fedlora, small, tmp_path):
    data = strange_data(small, tmp_path / "data")
    labels = {json.loads(line)["label"] for line in (tmp_path / "data" / "train.jsonl").read_text().splitlines()}
    assert set(STRANGE.values()) <= labels
    path = config(data={"path": data}, split={"kind": "natural", "column": "ward"}, method={"name": "lora-a2"})
    code, _, err = fedlora("run", path, "--out", tmp_path / "out")
    assert code == 0
    assert "fedlora:" not in err  # other libraries have their bars there
    page = (tmp_path / "out" / "report.html").read_text()
    assert "client from $5 to $10, $100% &amp; $50%: " in page
    assert r"client \ufffe, a\u0000b\uffff: " in page
    assert "chosen slots of B" in page  # the run itself tells which modules there are


def test_an_owner_with_a_control_character_is_one_sentence(config, fedlora, small, tmp_path):
    """A client's name goes into every record and log, so that it must be one line of text."""
    data = strange_data(small, tmp_path / "data")
    for path in Path(data).iterdir():
        path.write_text(path.read_text().replace("from $5 to $10", "a\\u0001b"))
    path = config(data={"path": data}, split={"kind": "natural", "column": "ward"})
    code, _, err = fedlora("run", path, "--out", tmp_path / "out")
    assert code == 2
    assert r"A client is called 'a\x01b', expected one line without control characters" in err
    assert not (tmp_path / "out").exists()


def test_a_run_whose_page_fails_has_not_failed(config, fedlora, tmp_path):
    path, out = config(), tmp_path / "out"
    assert fedlora("run", path, "--out", out)[0] == 0
    (out / "report.html").unlink()
    (out / "summary.json").unlink()
    in_the_way(out)
    code, said, err = fedlora("run", path, "--out", out, "--resume")
    assert code == 0
    assert f"run: {out}" in said
    assert (out / "summary.json").is_file()
    assert err.count("\n") == 1
    assert err.startswith(f"fedlora: The page in {out} could not be made (IsADirectoryError: ")
    assert f"{MADE_AGAIN} {out}` makes the page again." in err
    code, _, err = fedlora("report", out)
    assert code == 1
    assert err.startswith(f"fedlora: The page in {out} could not be made (IsADirectoryError: ")
    assert err.count("\n") == 1
    (out / "report.html").rmdir()
    assert fedlora("report", out)[0] == 0
    assert (out / "report.html").is_file()


def test_a_run_in_python_ends_though_its_page_fails(config, tmp_path, capsys):
    rounds = []
    for record in fedlora.run(config(), out=tmp_path / "out"):
        rounds.append(record.round)
        if record.round == 1:
            in_the_way(tmp_path / "out")
    assert rounds == [1, 2]
    assert (tmp_path / "out" / "summary.json").is_file()
    assert MADE_AGAIN in capsys.readouterr().err


def test_a_comparison_goes_on_after_a_page_that_fails(config, fedlora, tmp_path):
    out = tmp_path / "out"
    words = ("compare", config(), "--methods", "fedit,ffa", "--out", out)
    assert fedlora(*words)[0] == 0
    for folder in (out / "fedit" / "seed-0", out):
        (folder / "report.html").unlink()
        in_the_way(folder)
    (out / "fedit" / "seed-0" / "summary.json").unlink()
    shutil.rmtree(out / "ffa")
    code, said, err = fedlora(*words)
    assert code == 0
    assert err.count(MADE_AGAIN) == err.count("\n") == 2  # the run's own page, and the comparison's
    assert (out / "ffa" / "seed-0" / "report.html").is_file()
    assert "worst tenth" in said
    assert "page:" not in said


def test_a_comparison_makes_the_page_that_a_kill_left_out(config, fedlora, tmp_path):
    out = tmp_path / "out"
    words = ("compare", config(), "--methods", "fedit", "--out", out)
    assert fedlora(*words)[0] == 0
    page = out / "fedit" / "seed-0" / "report.html"
    before = page.read_bytes()
    page.unlink()  # as after a kill between summary and page
    code, said, err = fedlora(*words)
    assert (code, err) == (0, "")
    assert "1 of 1 runs are finished already" in said
    assert page.read_bytes() == before


@pytest.mark.parametrize("column", ["text", "label", "ward"])
def test_half_a_character_in_the_data_is_one_sentence(config, fedlora, small, tmp_path, column):
    shutil.copytree(small / "data", tmp_path / "data")
    train = tmp_path / "data" / "train.jsonl"
    first, *rest = train.read_text().splitlines(keepends=True)
    train.write_text("".join([json.dumps(json.loads(first) | {column: "cut off \ud83d"}) + "\n", *rest]))
    path = config(data={"path": str(tmp_path / "data")}, split={"kind": "natural", "column": "ward"})
    code, _, err = fedlora("run", path, "--out", tmp_path / "out")
    assert code == 2
    assert err.count("\n") == 1
    assert rf"data: row 1 of the train part, column '{column}', holds '\ud83d', half of a character" in err
    assert not (tmp_path / "out").exists()
