"""Every mistake gets one plain sentence, exit code 2, no traceback, and leaves nothing behind."""

import json

import pytest

from fedlora.app.config.schema import make_config, resolved

MISTAKES = [
    ({"run": {"roundz": 3}}, "unknown key run.roundz: did you mean 'rounds'?"),
    ({"runs": {"rounds": 3}}, "unknown section [runs]: did you mean 'run'?"),
    ({"run": {"rounds": "three"}}, "run.rounds is 'three'; input should be a valid integer"),
    ({"run": {"rounds": 0}}, "run.rounds is 0; input should be greater than or equal to 1"),
    ({"run": {"device": "warp"}}, "run.device is 'warp', which cannot be used here"),
    ({"adapter": {"rank": 0}}, "adapter.rank is 0"),
    ({"adapter": {"rank": 17}}, "largest rank is 17, but the smallest adapted map has only 16 dimensions"),
    ({"adapter": {"targets": ["q_proj"]}}, "the layers' maps end in dense, key, query, value"),
    ({"adapter": {"start": "/nowhere"}}, "adapter.start is '/nowhere', but that is no lora adapter"),
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
    ({"method": {"denominator": "all"}}, "unknown key method.denominator: choose one of: centre, name, trim"),
    ({"method": {"name": "local", "trim": 0.1}}, "unknown key method.trim: local has no fields of its own"),
    ({"data": {"path": "/nowhere"}}, "data.path is '/nowhere', but there is no such file or folder"),
    ({"data": {"text": "body"}}, "no column 'body'; it has 'text', 'label', 'ward'"),
    ({"data": {"labels": ["open_account", "open_card"]}}, "not among the 2 labels"),
    ({"split": {"clients": 1000}}, "split.clients is 1000, but there are only 200 training examples"),
    ({"split": {"kind": "natural", "column": "site"}}, "no column 'site'"),
    ({"split": {"kind": "natural"}}, "set split.column"),
    (
        {"split": {"kind": "natural", "column": "ward", "unseen": 3}},
        "split.unseen is 3, but there are 3 clients: hold out fewer, so that somebody trains",
    ),
    (
        {"split": {"kind": "natural", "column": "ward", "unseen": 0.9}},
        "split.unseen is 0.9, which is 3, but there are 3 clients: hold out fewer",
    ),
    ({"split": {"kind": "natural", "column": "ward", "unseen": 1.5}}, "split.unseen is 1.5; input should be"),
    (
        {"split": {"kind": "natural", "column": "ward", "min_examples": 68}},
        "split.min_examples is 68, but no client has so many examples: 'ward/0' has the most, 67. Lower it",
    ),
    ({"split": {"kind": "natural", "column": "ward", "test_by": "time"}}, "split.test_by is 'time'; input should be"),
    (
        {"split": {"kind": "natural", "column": "ward", "test_by": "order"}, "data": {"test_examples": 5}},
        "data.test_examples is 5, but split.test_by is 'order'",
    ),
    (
        {"split": {"kind": "natural", "column": "ward", "test_by": "order"}, "data": {"test_share": 0.001}},
        "data.test_share is 0.001 of each client's examples, of which 'ward/0' has the most, 67: nobody gets a test",
    ),
    (
        {"split": {"kind": "iid", "unseen": 1}},
        "split.unseen is 1, which is for natural clients, but split.kind is 'iid': leave it out, or set",
    ),
    ({"model": {"base": "/nowhere"}}, "model.base is '/nowhere', which cannot be loaded"),
    ({"train": {"epochs": 1, "steps": 2}}, "train.epochs and train.steps are both given"),
]


def rows(path, *texts):
    """Write train and test files of (text, label) pairs."""
    path.mkdir()
    for part, own in zip(("train", "test"), texts, strict=True):
        (path / f"{part}.jsonl").write_text("".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in own))
    return {"data": {"path": str(path)}}


GOOD = [("where is my card", "find"), ("open my account", "open")] * 6


def translator(folder):
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    T5ForConditionalGeneration(T5Config(vocab_size=20, **sizes)).save_pretrained(folder)
    return {"model": {"base": str(folder)}}


def empty_folder(folder):
    folder.mkdir()
    return {"model": {"base": str(folder)}}


def one_owner(path):
    """All examples of one speaker."""
    tree = rows(path, GOOD, GOOD)
    train = path / "train.jsonl"
    named = [json.dumps({**json.loads(line), "who": "Joey"}) for line in train.read_text().splitlines()]
    train.write_text("\n".join(named) + "\n")
    return {**tree, "split": {"kind": "natural", "column": "who"}}


PREPARED = [
    (
        lambda at: one_owner(at / "d"),
        "split.kind is 'natural', but the column 'who' (split.column) names one client, 'Joey', for all 12 training "
        "examples; expected at least two",
    ),
    (lambda at: rows(at / "d", [], GOOD), "the train part has no examples"),
    (lambda at: rows(at / "d", [("where is it", "find")] * 9, GOOD), "has a single label, 'find'; at least two"),
    (
        lambda at: rows(at / "d", GOOD, [("hello", "greet")]),
        "test part has the label 'greet', which is not among the 2",
    ),
    (lambda at: translator(at / "m"), "a t5, which cannot classify texts: choose an encoder such as BERT"),
    (lambda at: empty_folder(at / "m"), "that folder holds no model: it has no config.json"),
    (lambda at: {"model": {"base": "nobody/nothing"}}, "which cannot be loaded for classification"),
    (lambda at: {"data": {"source": "hub", "path": "nobody/nothing"}}, "could not be loaded from the hub"),
]


def files(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def earlier(tmp_path_factory, small):
    """A finished run that must not be touched by any mistake."""
    import fedlora

    folder = tmp_path_factory.mktemp("earlier") / "run"
    tree = {
        "run": {"rounds": 1},
        "data": {"source": "files", "path": str(small / "data")},
        "split": {"clients": 3},
        "model": {"base": str(small / "base"), "max_length": 24},
        "adapter": {"rank": 2},
    }
    for _ in fedlora.run(tree, out=folder):
        pass
    return folder


@pytest.fixture
def refused(fedlora, earlier, offline):
    """Runs a command that must be refused: exit 2, one sentence, no traceback, earlier results intact."""

    def call(sentence, *words):
        before = files(earlier)
        code, _, err = fedlora(*words)
        assert code == 2, err
        assert sentence in err
        assert err.startswith("fedlora: ")
        assert err.count("\n") == 1
        assert "Traceback" not in err
        assert files(earlier) == before

    return call


@pytest.mark.parametrize(("change", "sentence"), MISTAKES, ids=[sentence[:50] for _, sentence in MISTAKES])
def test_one_sentence(config, refused, tmp_path, change, sentence):
    refused(sentence, "run", config(**change), "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("prepare", "sentence"), PREPARED, ids=[sentence[:50] for _, sentence in PREPARED])
def test_one_sentence_about_what_lies_on_disk(config, refused, tmp_path, prepare, sentence):
    refused(sentence, "run", config(**prepare(tmp_path)), "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_output_folder_of_another_run(config, refused, earlier):
    refused("already holds a run", "run", config(), "--out", earlier)
    refused(
        "adapter.alpha was 16.0 and is now 9.0",
        "run",
        earlier / "config.toml",
        "--set",
        "adapter.alpha=9.0",
        "--resume",
        "--out",
        earlier,
    )


def stopped_run(config, fedlora, tmp_path, name="run", **changes):
    """A run whose last round is missing, as a kill leaves it."""
    out = tmp_path / name
    path = config(run={"rounds": 3}, **changes)
    assert fedlora("run", path, "--out", out)[0] == 0
    lines = (out / "rounds.jsonl").read_bytes().splitlines(keepends=True)
    (out / "rounds.jsonl").write_bytes(b"".join(lines[:2]))
    (out / "checkpoints" / "server-000003.payload").unlink()
    (out / "summary.json").unlink()
    return path, out


def test_a_truncated_checkpoint(config, fedlora, refused, tmp_path):
    path, out = stopped_run(config, fedlora, tmp_path)
    checkpoint = out / "checkpoints" / "server-000002.payload"
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: len(whole) // 2])
    before = files(out)
    refused("server-000002.payload is damaged: delete it", "run", path, "--out", out, "--resume")
    assert files(out) == before
    checkpoint.write_bytes(whole)
    assert fedlora("run", path, "--out", out, "--resume")[0] == 0


def test_a_foreign_checkpoint(config, fedlora, refused, tmp_path):
    _, other = stopped_run(config, fedlora, tmp_path, "other", train={"lr": 1e-3})
    path, out = stopped_run(config, fedlora, tmp_path)
    name = "checkpoints/server-000002.payload"
    (out / name).write_bytes((other / name).read_bytes())
    refused("server-000002.payload belongs to another run", "run", path, "--out", out, "--resume")


def test_a_loss_that_is_not_finite(config, fedlora, refused, tmp_path):
    """Round 1 is fine at a rate of nearly nothing that rises; the rounds before the break are kept."""
    train = {"lr": 1e30, "optimizer": "sgd", "schedule": "constant", "warmup": 0.9}
    path = config(train=train, run={"rounds": 40})
    refused("the loss is nan at step", "run", path, "--out", tmp_path / "out")
    refused("client c", "run", path, "--out", tmp_path / "out", "--resume")
    assert (tmp_path / "out" / "config.toml").exists()


def test_a_full_disk(config, fedlora, refused, tmp_path):
    """The real thing: a limit on the size of files, which the second checkpoint passes."""
    import resource

    path = config(run={"rounds": 3}, adapter={"rank": 8})
    assert fedlora("run", path, "--out", tmp_path / "whole")[0] == 0
    biggest = max(p.stat().st_size for p in (tmp_path / "whole" / "checkpoints").iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (biggest - 100, hard))
    try:
        refused("make room and go on with --resume", "run", path, "--out", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert fedlora("run", path, "--out", tmp_path / "out", "--resume")[0] == 0
    for file, data in files(tmp_path / "whole").items():
        name = file.relative_to(tmp_path / "whole")
        assert name.name == "timings.jsonl" or (tmp_path / "out" / name).read_bytes() == data


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
