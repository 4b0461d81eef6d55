"""A dry run tells what the run then takes: its bytes to the last one, its steps and its parameters."""

import json
import re

import pytest

import fedlora as package
from fedlora.app.build.simulation import build
from fedlora.app.config.schema import read_config
from fedlora.app.run.dry_run import dry_run, told
from fedlora.app.run.duration import in_words, time_left
from fedlora.methods import BUILT_IN

FIXED = sorted(set(BUILT_IN) - {"lora-a2", "hetlora", "florist", "replicate"})
"""Methods whose bytes do not depend on what the training finds."""
SAMPLED = {"per_round": 2, "dropout": 0.2}


def of_the_run(path, out):
    """Per round: bytes up, bytes down, adapter parameters up, optimiser steps."""
    return [(r.traffic.up, r.traffic.down, r.parameters_up, r.steps) for r in package.run(path, out=out)]


def expected(dry):
    return [(cost.bytes_up, cost.bytes_down, cost.parameters_up, cost.steps) for cost in dry.rounds]


def settings(method, **clients):
    mixed = BUILT_IN[method]().facts.mixed_ranks and not BUILT_IN[method]().facts.centralized
    ranks = {"ranks": [1, 3, 2]} if mixed else {}
    return {"method": {"name": method}, "run": {"rounds": 3}, "clients": {**ranks, **clients}}


@pytest.mark.parametrize("method", FIXED)
def test_bytes_steps_and_parameters_are_those_of_the_run(config, tmp_path, method):
    path = config(**settings(method))
    dry = dry_run(build(read_config(path)))
    assert dry.certain_up
    assert dry.certain_down
    assert expected(dry) == of_the_run(path, tmp_path / "out")


@pytest.mark.parametrize("method", ["fedit", "fedsa", "flora"])
def test_so_they_are_where_clients_are_drawn_and_drop_out(config, tmp_path, method):
    path = config(**settings(method, **SAMPLED), split={"clients": 5})
    assert expected(dry_run(build(read_config(path)))) == of_the_run(path, tmp_path / "out")


def test_replicate_with_mixed_ranks(config, tmp_path):
    """Clients send a validation score as a decimal number, so a header may have some characters more or less."""
    path = config(**settings("replicate"), split={"validation": 0.2})
    dry, real = expected(dry_run(build(read_config(path)))), of_the_run(path, tmp_path / "out")
    assert [line[1:] for line in dry] == [line[1:] for line in real]
    assert [line[0] for line in dry] == pytest.approx([line[0] for line in real], abs=3 * 24)


def test_lora_a2_sends_as_many_numbers_and_no_more_bytes_than_said(config, tmp_path):
    """Which slots go up is known only in training. Where all maps have one width, how many numbers go up is not open."""
    choice = settings("lora-a2")
    path = config(**choice, adapter={"rank": 2, "targets": ["query", "key", "value"]})
    dry, real = dry_run(build(read_config(path))), of_the_run(path, tmp_path / "out")
    assert [line[1:] for line in expected(dry)] == [line[1:] for line in real]
    assert dry.certain_down
    assert not dry.certain_up
    assert all(up <= cost.most_up for (up, *_), cost in zip(real, dry.rounds, strict=True))
    assert sum(up for up, *_ in real) == pytest.approx(sum(cost.bytes_up for cost in dry.rounds), rel=0.1)
    assert "bytes up     round 1: about " in "\n".join(told(dry))
    assert "; at most " in "\n".join(told(dry))


def test_the_command_writes_nothing_and_tells_the_bytes_of_the_run(config, fedlora, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, out = config(method={"name": "fedsa"}), tmp_path / "out"
    before = sorted(tmp_path.rglob("*"))
    code, said, err = fedlora("run", path, "--dry-run")
    assert (code, err) == (0, "")
    assert sorted(tmp_path.rglob("*")) == before
    assert fedlora("run", path, "--out", out)[0] == 0
    summary = json.loads((out / "summary.json").read_text())
    for way in ("up", "down"):
        (line,) = (line for line in said.splitlines() if line.startswith(f"bytes {way}"))
        assert line.endswith(f"; whole run: {summary[f'bytes_{way}']:,}")
    assert f"{summary['steps']:,} optimiser steps" in said
    for word in ("clients      3 a round, 2 rounds", "parameters   ", "memory       about ", "time         about "):
        assert word in said
    assert re.search(r"a client trains [\d,]+ in a round \([\d.]+ %\)", said)


def test_a_dry_run_of_what_cannot_run_says_why(config, fedlora):
    code, _, err = fedlora("run", config(method={"name": "fedit"}, clients={"ranks": [1, 2]}), "--dry-run")
    assert code == 2
    assert "takes one rank for all" in err
    code, _, err = fedlora("run", config(), "--dry-run", "--resume")
    assert code == 2
    assert "leave one out" in err


def test_durations_in_words():
    told_in_words = [in_words(seconds) for seconds in (0.2, 40, 150, 5000, 7500, 7200, 40 * 3600, 53 * 3600)]
    assert told_in_words == ["1 s", "40 s", "2 min", "83 min", "2 h 5 min", "2 h", "40 h", "2 d 5 h"]
    assert time_left(30.0, done=1, left=2) == "about 60 s left"
    assert time_left(30.0, done=3, left=0) == ""


def test_what_is_done_once_is_counted_once(config, monkeypatch):
    """Where layers below the adapted ones are kept, the first step and the first score make what all others read."""
    steps, scores = iter([(10.0, 1), (1.0, 1), (1.3, 4)]), iter([(5.0, 10), (0.02, 10)])
    monkeypatch.setattr("fedlora.app.run.dry_run._time_steps", lambda *_: next(steps))
    monkeypatch.setattr("fedlora.app.run.dry_run._time_score", lambda *_: next(scores))
    speed = dry_run(build(read_config(config(run={"rounds": 1})))).speed
    assert speed.step == pytest.approx(0.1)
    assert speed.example == pytest.approx(0.002)
    assert speed.once == pytest.approx(9.0 + 4.98)
