"""model.dtype = "auto": asked once, and written down."""

import json
import tomllib

import pytest

from fedlora.app.build import dtype as asked
from fedlora.training.bases.probe import Probe

AUTO = {"dtype": "auto"}


@pytest.fixture
def planted(monkeypatch):
    """A machine on which bfloat16 is twice as fast; counts how often it is asked."""
    calls = []

    def measure(shapes, device):
        calls.append((len(shapes), device))
        return Probe(2.0, 1.0)

    monkeypatch.setattr(asked, "measured", measure)
    return calls


def written(folder):
    return tomllib.loads((folder / "config.toml").read_text())["model"]["dtype"]


def test_a_run_is_asked_once_and_its_config_has_the_answer(config, fedlora, tmp_path, planted):
    path, out = config(model=AUTO, run={"rounds": 1}), tmp_path / "out"
    code, _, err = fedlora("run", path, "--out", out)
    assert code == 0
    assert err == (
        "fedlora: model.dtype is auto: bfloat16, since bfloat16 has 2 times the speed of float32 here; the run's config "
        "says so.\n"
    )
    assert (written(out), planted) == ("bfloat16", [(6, "cpu")])
    code, _, err = fedlora("run", path, "--out", out, "--resume", "--set", "run.rounds=2")
    assert (code, written(out), len(planted)) == (0, "bfloat16", 1)
    assert err == f"fedlora: model.dtype is auto: bfloat16, as the run in {out} has it.\n"
    code, _, err = fedlora("run", out / "config.toml", "--out", tmp_path / "again")  # as the page says
    assert (code, err, written(tmp_path / "again"), len(planted)) == (0, "", "bfloat16", 1)
    both = [(folder / "rounds.jsonl").read_bytes() for folder in (out, tmp_path / "again")]
    assert both[0] == both[1]


def test_the_runs_of_a_comparison_have_one_type(config, fedlora, tmp_path, planted):
    path, out = config(model=AUTO, run={"rounds": 1}), tmp_path / "out"
    assert fedlora("compare", path, "--methods", "fedit,ffa", "--out", out)[0] == 0
    assert len(planted) == 1
    planted.append("asked before")
    assert fedlora("compare", path, "--methods", "fedit,ffa,fedsa", "--out", out)[0] == 0
    assert [written(out / method / "seed-0") for method in ("fedit", "ffa", "fedsa")] == ["bfloat16"] * 3
    assert planted[1:] == ["asked before"]


def test_python_is_asked_too(small, tmp_path, planted):
    import fedlora

    tree = {"data": {"source": "files", "path": str(small / "data")}, "split": {"clients": 3}, "run": {"rounds": 1}}
    named = {"model": {"base": str(small / "base"), "dtype": "auto"}}
    run = fedlora.run({**tree, **named}, out=tmp_path / "out")
    assert (run.experiment.config.model.dtype, written(tmp_path / "out")) == ("bfloat16", "bfloat16")
    next(iter(run))


def test_a_named_type_is_not_measured(config, fedlora, tmp_path, planted):
    code, _, err = fedlora("run", config(run={"rounds": 1}), "--out", tmp_path / "out")
    assert (code, err, written(tmp_path / "out"), planted) == (0, "", "float32", [])


def test_a_base_that_is_not_there_is_the_only_thing_said(config, fedlora, tmp_path, planted):
    path = config(model={**AUTO, "base": str(tmp_path / "none")})
    code, _, err = fedlora("run", path, "--out", tmp_path / "out")
    assert code == 2
    assert err.count("\n") == 1
    assert "there is no such folder" in err


def test_bfloat16_and_float32_end_at_one_loss(config, fedlora, tmp_path):
    losses = []
    for name in ("float32", "bfloat16"):
        assert fedlora("run", config(model={"dtype": name}, run={"rounds": 3}), "--out", tmp_path / name)[0] == 0
        losses.append(json.loads((tmp_path / name / "rounds.jsonl").read_text().splitlines()[-1])["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
    assert losses[0] != losses[1]
