"""Input that nobody could use ends in one plain sentence and exit code 2, where it ended in a traceback or in silence."""

import gzip
import json
import os
import shutil
import subprocess
import sys

import pytest


@pytest.fixture
def told(fedlora, tmp_path):
    """Runs a config that must be refused; returns the sentence."""

    def refused(path, *words):
        code, _, err = fedlora("run", path, "--out", tmp_path / "out", *words)
        assert code == 2, err
        assert err.startswith("fedlora: ")
        assert err.count("\n") == 1, err
        return err

    return refused


def rows(path, texts, labels=("a", "b")):
    lines = [json.dumps({"text": text, "label": labels[n % 2]}) for n, text in enumerate(texts)]
    path.write_text("".join(f"{line}\n" for line in lines))


SETTINGS = [
    ("train.lr=1e300", "train.lr is 1e+300"),
    ("train.lr=inf", "train.lr is inf"),
    ("split.alpha=inf", "split.alpha is inf"),
    (f"model.max_length={2**70}", "model.max_length is 1180591620717411303424"),
    ("run.device=meta", "run.device is 'meta', which cannot be used here"),
    ("method.trim=nan", "method.trim is nan; it must be a finite number"),
]


@pytest.mark.defect("S23")
@pytest.mark.parametrize(("override", "sentence"), SETTINGS)
def test_numbers_without_end(config, told, override, sentence):
    assert sentence in told(config(), "--set", override)


@pytest.mark.defect("S23")
@pytest.mark.parametrize("values", ["beta2 = 2.0", "beta1 = 1.0", "tau = 0.0", "lr = nan", "lr = inf"])
def test_numbers_that_a_stage_cannot_take(config, told, values):
    path = config()
    path.write_text(f'{path.read_text()}\n[[stage]]\nname = "fedadam"\n{values}\n')
    field, _, value = values.partition(" = ")
    assert f"stage fedadam.{field} is {value}; it must be" in told(path)


@pytest.mark.defect("S23")
def test_a_budget_that_pays_for_nothing(config, told):
    path = config(method={"name": "lora-a2", "bytes_per_round": 1})
    assert "method.bytes_per_round is 1, but the smallest slot of this base takes" in told(path)


@pytest.mark.defect("S23")
@pytest.mark.parametrize("method", ["flora", "lora-a2", "hetlora"])
def test_a_kind_of_adapter_that_a_method_does_not_take(config, told, method):
    path = config(adapter={"kind": "vera"}, method={"name": method})
    assert f"adapter.kind is 'vera' but {method} takes lora" in told(path)


@pytest.mark.defect("S23")
@pytest.mark.parametrize("text", [f"a = {'[' * 5000}{']' * 5000}", f"a = {'9' * 5000}"])
def test_a_config_without_end(told, tmp_path, text):
    (tmp_path / "config.toml").write_text(text)
    assert "is no TOML" in told(tmp_path / "config.toml")


@pytest.mark.defect("S23")
@pytest.mark.parametrize("value", ["[" * 100_000, '{"text": "a", "label": ' + "9" * 5000 + "}"])
@pytest.mark.parametrize("ending", ["jsonl", "json"])
def test_json_without_end(config, told, tmp_path, value, ending):
    (tmp_path / f"data.{ending}").write_text(value + "\n")
    path = config(data={"source": "files", "path": str(tmp_path / f"data.{ending}")})
    assert f"data.{ending}" in told(path)


@pytest.mark.defect("S23")
def test_a_flipped_bit_in_gzip(config, told, tmp_path):
    data = bytearray(gzip.compress(b'{"text": "where is my card", "label": "a"}\n' * 50, mtime=0))
    path = config(data={"source": "files", "path": str(tmp_path / "data.jsonl.gz")})
    for place in range(10, len(data) - 8):
        (tmp_path / "data.jsonl.gz").write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        assert "data.jsonl.gz" in told(path)


@pytest.mark.defect("S23")
def test_columns_that_hold_tables(config, told, tmp_path):
    import pyarrow
    from pyarrow import parquet

    for column in ({"en": "where is my card"}, ["where is my card"]):
        table = {"text": [column] * 10, "label": ["a", "b"] * 5}
        parquet.write_table(pyarrow.table(table), tmp_path / "data.parquet")
        said = told(config(data={"source": "files", "path": str(tmp_path / "data.parquet")}))
        assert f"row 1 has a {type(column).__name__} in the column 'text', expected text" in said


@pytest.mark.defect("S23")
def test_rows_are_counted_as_they_stand_in_the_file(config, told, tmp_path):
    lines = [{"text": "where is my card", "label": "ab"[n % 2]} for n in range(40)]
    del lines[16]["label"]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = told(config(data={"source": "files", "path": str(tmp_path / "data.jsonl")}))
    assert "data.jsonl: row 17 has no column 'label'" in said


@pytest.fixture
def base(small, tmp_path):
    """A copy of the small base, and a config of it."""
    shutil.copytree(small / "base", tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.defect("S23")
@pytest.mark.parametrize("length", [0, 4, 100, 5000])
def test_weights_that_are_cut(config, told, base, length):
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:length])
    assert "which cannot be loaded for classification" in told(config(model={"base": str(base)}))


@pytest.mark.defect("S23")
def test_weights_that_are_no_pickle(config, told, base):
    (base / "model.safetensors").unlink()
    (base / "pytorch_model.bin").write_bytes(b"no pickle at all" * 9)
    assert "which cannot be loaded for classification" in told(config(model={"base": str(base)}))


@pytest.mark.defect("S23")
def test_tokens_that_a_base_has_no_vectors_for(config, told, base):
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    for number, word in enumerate(list(tokenizer["model"]["vocab"])[5:]):
        tokenizer["model"]["vocab"][word] = 1000 + number
    (base / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert "the tokenizer is another model's" in told(config(model={"base": str(base)}))


@pytest.mark.defect("S23")
def test_the_generated_base_where_nothing_can_be_kept(config, told, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "Set the environment variable XDG_CACHE_HOME" in told(config(model={"base": "generated"}))


@pytest.mark.defect("S13")
def test_a_base_without_its_tokenizer(config, told, base):
    for file in base.glob("*token*"):
        file.unlink()
    said = told(config(model={"base": str(base)}))
    assert "tokenizer" in said
    assert "which cannot be loaded" in said or "lacks the tokenizer's files" in said


@pytest.mark.defect("S13")
def test_texts_that_a_base_does_not_know(config, told, tmp_path):
    rows(tmp_path / "data.jsonl", ["wo bleibt meine karte", "bitte konto sperren"] * 20)
    said = told(config(data={"source": "files", "path": str(tmp_path / "data.jsonl")}))
    assert "does not know 100 % of the words of the texts" in said


@pytest.mark.defect("S14")
def test_texts_longer_than_the_positions_of_a_base(config, told, tmp_path):
    rows(tmp_path / "data.jsonl", ["where is my card", "please close my account " * 30] * 20)
    path = config(data={"source": "files", "path": str(tmp_path / "data.jsonl")}, model={"max_length": 128})
    said = told(path)
    assert "The longest text has 122 tokens" in said
    assert "reads at most 64: set model.max_length to 64" in said


@pytest.mark.defect("S14")
@pytest.mark.parametrize("length", [1, 2])
def test_a_cut_that_leaves_nothing(config, told, length):
    said = told(config(model={"max_length": length}))
    assert f"model.max_length is {length}, but 2 tokens of every text are special ones: set it to at least 3" in said


@pytest.mark.defect("R16")
def test_without_a_hub_the_base_that_needs_none_is_named(config, tmp_path):
    env = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:1", "HF_HOME": str(tmp_path)}
    env = {key: value for key, value in env.items() if key.lower() not in ("https_proxy", "all_proxy", "http_proxy")}
    path = config(model={"base": "somebody/something"})
    line = [sys.executable, "-m", "fedlora.cli", "run", str(path), "--out", str(tmp_path / "out")]
    done = subprocess.run(line, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert 'model.base = "generated"' in done.stderr


NO_TEXT, NO_TABLE, NO_END = b"\x00\x00\xff\n", b"[1, 2]\n", b'{"a": [\n'
DAMAGES = [
    *(("config.toml", damage) for damage in (b"", NO_TEXT, NO_TABLE, NO_END)),
    *(("rounds.jsonl", damage) for damage in (NO_TEXT, NO_TABLE, NO_END)),
    *(("clients.jsonl", damage) for damage in (b"", NO_TEXT, NO_TABLE, NO_END)),
    ("environment.json", NO_TABLE),
    ("split.json", NO_TABLE),
]


@pytest.mark.defect("S23")
@pytest.mark.parametrize(("file", "damage"), DAMAGES)
def test_damaged_files_of_a_run(fedlora, finished, tmp_path, file, damage):
    run, path = finished
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / file).write_bytes(damage)
    for words in (("report", tmp_path / "run"), ("run", path, "--resume", "--out", tmp_path / "run")):
        code, _, err = fedlora(*words)
        assert code == 2 or (code == 0 and file.endswith("l") and not damage), err
        assert "Traceback" not in err


@pytest.fixture(scope="module")
def finished(tmp_path_factory, small):
    """A finished run and its config."""
    import fedlora

    folder = tmp_path_factory.mktemp("finished")
    tree = {
        "run": {"rounds": 1},
        "data": {"source": "files", "path": str(small / "data")},
        "split": {"clients": 3},
        "model": {"base": str(small / "base"), "max_length": 24},
        "adapter": {"rank": 2},
        "method": {"name": "fedsa"},
    }
    for _ in fedlora.run(tree, out=folder / "run"):
        pass
    shutil.copy(folder / "run" / "config.toml", folder / "config.toml")
    return folder / "run", folder / "config.toml"


@pytest.mark.defect("S23")
@pytest.mark.parametrize("damage", [b"", b"\x00\xff", b"[1]", b'{"labels": 3}'])
def test_a_damaged_description_of_an_adapter(fedlora, finished, tmp_path, damage):
    shutil.copytree(finished[0], tmp_path / "run")
    for path in (tmp_path / "run").glob("clients/*/adapter/fedlora.json"):
        path.write_bytes(damage)
    code, _, err = fedlora("predict", tmp_path / "run", "where is my card", "--client", "c0")
    assert code == 2, err
    assert "fedlora.json is damaged" in err


@pytest.mark.defect("S23")
@pytest.mark.parametrize("written", ["export", "report"])
def test_a_full_disk(fedlora, finished, tmp_path, written):
    """The real thing: a limit on the size of files."""
    import resource

    shutil.copytree(finished[0], tmp_path / "run")
    words = {"export": ("--client", "c0"), "report": ("--out", tmp_path / "page")}[written]
    target = (tmp_path / "exported",) if written == "export" else ()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        code, _, err = fedlora(written, tmp_path / "run", *target, *words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code in (1, 2)
    assert err.startswith("fedlora: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "exported").exists()
