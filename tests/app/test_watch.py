"""A run that is watched: its page is there from the start, grows, and stops reloading itself when the run stops."""

import re

import pytest

from fedlora.app.build.simulation import build
from fedlora.app.config.schema import read_config
from fedlora.app.run.run import Run
from fedlora.app.run.watch import watched

RELOADS = '<meta http-equiv="refresh"'


@pytest.fixture
def begun(config, tmp_path):
    """A run of three rounds, watched, and the lines that it tells."""
    told = []
    run = Run(build(read_config(config(run={"rounds": 3}), [])), tmp_path / "out")
    return watched(run, tmp_path / "out", told.append), tmp_path / "out" / "report.html", told


def test_the_page_is_written_after_every_round(begun):
    rounds, page, told = begun
    seen = []
    for record in rounds:
        text = page.read_text()
        assert RELOADS in text
        seen.append(re.search(r"Under way: fedit, seed 0, (\d) of 3 rounds", text)[1])
        assert record.round == int(seen[-1])
    assert seen == ["1", "2", "3"]
    assert RELOADS not in page.read_text()
    assert "Under way" not in page.read_text()
    assert told[0] == f"the page, written after every round: {page.resolve()}"
    assert re.fullmatch(r"writing the page after every round took \d+\.\d of \d+\.\d s", told[-1])
    assert list(page.parent.glob(".*.part")) == []


def test_a_page_is_there_before_the_first_round(begun, monkeypatch):
    rounds, page, _ = begun
    seen = []

    def look(*_):
        seen.append(page.read_text())
        raise KeyboardInterrupt

    monkeypatch.setattr("fedlora.app.run.run.federate", look)
    with pytest.raises(KeyboardInterrupt):
        next(rounds)
    assert RELOADS in seen[0]
    assert "no round is finished yet" in seen[0]
    assert not page.exists()  # nobody is at work on it, and there is nothing to show


def test_a_run_that_is_stopped_leaves_a_page_that_does_not_reload(begun):
    rounds, page, _ = begun
    next(rounds)
    rounds.close()
    text = page.read_text()
    assert RELOADS not in text
    assert "Not finished: fedit, seed 0." in text


def test_a_page_that_cannot_be_written_is_told_once_and_stops_nothing(begun):
    rounds, page, told = begun
    page.mkdir()
    assert [record.round for record in rounds] == [1, 2, 3]
    assert (page.parent / "summary.json").is_file()
    assert len([line for line in told if "could not be made" in line]) == 1


def test_the_command_line_watches(fedlora, config, tmp_path):
    code, said, err = fedlora("run", config(), "--out", tmp_path / "out", "--watch")
    assert (code, err) == (0, "")
    page = tmp_path / "out" / "report.html"
    lines = said.splitlines()
    assert lines.index(f"the page, written after every round: {page}") < next(
        number for number, line in enumerate(lines) if line.startswith("round 1/2")
    )
    assert RELOADS not in page.read_text()


def test_watching_changes_nothing_of_the_run(fedlora, config, tmp_path):
    path = config()
    for name, words in (("plain", ()), ("watched", ("--watch",))):
        assert fedlora("run", path, "--out", tmp_path / name, *words)[0] == 0
    for file in ("rounds.jsonl", "clients.jsonl", "summary.json", "table.csv"):
        assert (tmp_path / "plain" / file).read_bytes() == (tmp_path / "watched" / file).read_bytes()
