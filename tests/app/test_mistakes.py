"""Every mistake gets one plain sentence, exit code 2, no traceback, and leaves nothing behind."""

import pytest

from fedlora.app.config import make_config, resolved

MISTAKES = [
    ({"run": {"roundz": 3}}, "unknown key run.roundz: did you mean 'rounds'?"),
    ({"runs": {"rounds": 3}}, "unknown section [runs]: did you mean 'run'?"),
    ({"run": {"rounds": "three"}}, "run.rounds is 'three'; input should be a valid integer"),
    ({"run": {"rounds": 0}}, "run.rounds is 0; input should be greater than or equal to 1"),
    ({"run": {"device": "warp"}}, "run.device is 'warp', which cannot be used here"),
    ({"adapter": {"rank": 0}}, "adapter.rank is 0"),
    ({"adapter": {"rank": 17}}, "largest rank is 17, but the smallest adapted map has only 16 dimensions"),
    ({"adapter": {"targets": ["q_proj"]}}, "the layers' maps end in dense, key, query, value"),
    ({"adapter": {"start": "/nowhere"}}, "adapter.start is '/nowhere', but that is no LoRA adapter"),
    ({"clients": {"ranks": [1, 2]}}, "Client c0 has rank 1 but fedit takes one rank for all (2)"),
    ({"clients": {"ranks": []}}, "clients.ranks is []"),
    ({"method": {"name": "fedti"}}, "There is no method 'fedti': did you mean 'fedit'?"),
    ({"method": {"name": "lora-a2", "pool": 3}}, "unknown key method.pool: did you mean 'pool_rank'?"),
    ({"method": {"name": "lora-a2", "pool_rank": "x"}}, "method.pool_rank is 'x'; input should be a valid integer"),
    ({"method": {"name": "lora-a2", "pool_rank": 1}}, "method.pool_rank is 1 but the largest budget is 2"),
    (
        {"method": {"name": "lora-a2", "denominator": "x"}},
        "method.denominator is 'x'; input should be 'all' or 'owners'",
    ),
    ({"method": {"denominator": "all"}}, "unknown key method.denominator: fedit has no fields of its own"),
    ({"data": {"path": "/nowhere"}}, "data.path is '/nowhere', but there is no such file or folder"),
    ({"data": {"text": "body"}}, "no column 'body'; it has 'text', 'label', 'ward'"),
    ({"data": {"labels": ["open_account", "open_card"]}}, "not among the 2 labels"),
    ({"split": {"clients": 1000}}, "split.clients is 1000, but there are only 200 training examples"),
    ({"split": {"kind": "natural", "column": "site"}}, "no column 'site'"),
    ({"split": {"kind": "natural"}}, "set split.column"),
    ({"model": {"base": "/nowhere"}}, "model.base is '/nowhere', which cannot be loaded"),
    ({"train": {"epochs": 1, "steps": 2}}, "train.epochs and train.steps are both given"),
]


@pytest.mark.parametrize(("change", "sentence"), MISTAKES, ids=[sentence[:50] for _, sentence in MISTAKES])
def test_one_sentence(config, fedlora, tmp_path, monkeypatch, change, sentence):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, _, err = fedlora("run", config(**change), "--out", tmp_path / "out")
    assert code == 2
    assert sentence in err
    assert err.startswith("fedlora: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_a_config_that_is_not_there_or_no_toml(fedlora, tmp_path):
    assert "cannot be read" in fedlora("run", tmp_path / "no.toml")[2]
    (tmp_path / "bad.toml").write_text("[run\n")
    code, _, err = fedlora("run", tmp_path / "bad.toml")
    assert code == 2
    assert "is no TOML" in err


def test_an_output_folder_in_use_is_left_alone(config, fedlora, tmp_path):
    out = tmp_path / "out"
    assert fedlora("run", config(), "--out", out)[0] == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    code, _, err = fedlora("run", config(), "--out", out)
    assert code == 2
    assert "already holds a run" in err
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_overrides(config, fedlora, tmp_path):
    words = ("--set", "run.rounds=1", "--set", "method.name=lora-a2", "--set", 'run.wire="bfloat16"')
    code, said, _ = fedlora("run", config(), "--out", tmp_path / "out", *words)
    assert code == 0
    assert "round 1/1" in said
    for wrong in ("rounds=1", "run.rounds", "run.=1"):
        code, _, err = fedlora("run", config(), "--set", wrong)
        assert code == 2
        assert "expected section.key=value" in err


def test_export_says_what_there_is(config, fedlora, tmp_path):
    assert "no finished run" in fedlora("export", tmp_path, tmp_path / "mine")[2]
    fedlora("run", config(method={"name": "fedsa"}), "--out", tmp_path / "out")
    code, _, err = fedlora("export", tmp_path / "out", tmp_path / "mine")
    assert code == 2
    assert "no global adapter; personal adapters: c0, c1, c2; choose one with --client" in err
    assert fedlora("export", tmp_path / "out", tmp_path / "mine", "--client", "c9")[0] == 2
    assert fedlora("export", tmp_path / "out", tmp_path / "mine", "--client", "c1")[0] == 0
    assert "already exists" in fedlora("export", tmp_path / "out", tmp_path / "mine", "--client", "c1")[2]


def test_the_resolved_config_reads_as_itself():
    import tomllib

    config = make_config({"clients": {"ranks": [1, 2]}, "method": {"name": "lora-a2", "pool_rank": 20}})
    assert make_config(tomllib.loads(resolved(config))) == config
