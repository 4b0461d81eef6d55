"""A run that adapts the top layer alone, with what lies below it kept and computed in every pass."""

import json

import pytest

from fedlora.training.generated.encoder import generated_base


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fedlora"


@pytest.fixture
def two_layers(cache):
    return str(generated_base(width=16, layers=2, steps=5))


def last_line(path):
    return json.loads(path.read_text().splitlines()[-1])


def test_a_run_with_and_without_it(config, fedlora, tmp_path, two_layers, cache):
    """Said before the first round, made once for all runs on these examples, and equal to rounding."""
    path = config(model={"base": two_layers}, adapter={"layers": [1]})
    outs = [tmp_path / name for name in ("first", "again", "without")]
    said = [fedlora("run", path, "--out", out) for out in outs[:2]]
    said.append(fedlora("run", path, "--out", outs[2], "--set", "train.trunk_cache_gb=0"))
    assert [code for code, _, _ in said] == [0, 0, 0]
    lines = said[0][2].splitlines()
    assert [line.partition(",")[0] for line in lines] == ["fedlora: computing what lies below layer 1"] * 2
    assert ["for 200 examples, once" in line or "for 60 examples, once" in line for line in lines] == [True, True]
    assert (said[1][2], said[2][2]) == ("", "")
    assert len(list((cache / "trunk").iterdir())) == 2  # training and test examples
    first, again, without = (last_line(out / "rounds.jsonl") for out in outs)
    assert first == again
    assert first["loss"] == pytest.approx(without["loss"], rel=1e-5)
    assert first["global"]["loss"] == pytest.approx(without["global"]["loss"], rel=1e-5)


def test_what_does_not_fit_is_said_in_a_line_and_the_run_goes_on(config, fedlora, tmp_path, two_layers, cache):
    path = config(model={"base": two_layers}, adapter={"layers": [1]}, train={"trunk_cache_gb": 1e-5})
    code, _, err = fedlora("run", path, "--out", tmp_path / "out")
    assert code == 0
    lines = err.splitlines()
    assert len(lines) == 2
    assert all("GB, and train.trunk_cache_gb = 1e-05 leaves" in line for line in lines)
    assert not (cache / "trunk").exists()


def test_a_whole_model_run_keeps_nothing(config, fedlora, tmp_path, two_layers, cache):
    code, _, err = fedlora("run", config(model={"base": two_layers}), "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    assert not (cache / "trunk").exists()
