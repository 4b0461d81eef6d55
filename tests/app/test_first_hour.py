"""From somebody's own file to a run, in few commands; and the way in from Python."""

import csv
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fedlora.training.generated.requests import generated_dataset

ROOT = Path(__file__).parents[2]


@pytest.fixture
def table(tmp_path):
    data = generated_dataset(300, 1)
    with (tmp_path / "tickets.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "message", "queue", "branch", "opened"])
        for number, (text, label) in enumerate(zip(data.train.texts, data.train.labels, strict=True)):
            writer.writerow([number, text, data.labels[label], f"branch {number % 4}", "yes"])
    return tmp_path / "tickets.csv"


def test_init_finds_text_label_and_owners_and_the_config_runs(table, fedlora, small, tmp_path):
    out = tmp_path / "mine.toml"
    code, said, err = fedlora("init", table, "--out", out)
    assert (code, err) == (0, "")
    assert "text 'message', label 'queue' with 25 values, 300 examples" in said
    text = out.read_text()
    assert "# The column 'branch' (4 values) may say whose an example is" in text
    config = tomllib.loads(text)
    assert (config["data"]["text"], config["data"]["label"]) == ("message", "queue")
    assert 16 <= config["model"]["max_length"] <= 64
    from fedlora.app.config.schema import Config, read_config
    from fedlora.app.config.sections import keys, sections

    read_config(out)
    told = {name: section for name, (section, _) in sections(Config).items() if name not in ("deploy", "stage")}
    assert len(told) == 9
    for name, section in told.items():
        for key in keys(section):
            assert f"\n{key.name} =" in text or f"\n# {key.name} =" in text, f"{name}.{key.name} is not told"
    assert "[[stage]]" in text
    words = ("--set", "run.rounds=1", "--set", f"model.base={small / 'base'}", "--set", "split.clients=3")
    assert fedlora("run", out, "--out", tmp_path / "run", *words)[0] == 0
    assert "already exists" in fedlora("init", table, "--out", out)[2]


def test_init_takes_the_columns_that_it_is_told(table, fedlora, tmp_path):
    out = tmp_path / "mine.toml"
    code, said, _ = fedlora("init", table, "--out", out, "--label", "branch", "--owner", "queue")
    assert code == 0
    assert "text 'message', label 'branch' with 4 values" in said
    config = tomllib.loads(out.read_text())
    assert config["data"]["label"] == "branch"
    assert config["split"] == {"kind": "natural", "column": "queue", "validation": 0.1}
    code, _, err = fedlora("init", table, "--out", tmp_path / "other.toml", "--label", "brunch")
    assert code == 2
    assert "tickets.csv has no column 'brunch': did you mean 'branch'?" in err


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("text,label\n", "has no examples"),
        ("a,b\n1,2\n3,4\n", "no column looks like text among a, b"),
        (
            "text,when\nwhere is my card today,1\nplease close my account,2\nhello how are you doing,3\n",
            "no column looks like a label",
        ),
        ("text,label\nwhere is my card today,x\nplease close my account,x\n", "the others are label (1 values)"),
    ],
)
def test_init_says_what_it_misses(fedlora, tmp_path, content, sentence):
    (tmp_path / "data.csv").write_text(content)
    code, _, err = fedlora("init", tmp_path / "data.csv", "--task", "classify", "--out", tmp_path / "x.toml")
    assert code == 2
    assert sentence in err
    assert "does not exist" in fedlora("init", tmp_path / "no.csv")[2]


def python(*words, cwd):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, cwd=cwd, env=env)


def test_the_example_in_python(tmp_path):
    script = ROOT / "examples" / "simulate.py"
    assert len(script.read_text().splitlines()) <= 30
    done = python(str(script), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "my-adapter" / "adapter_config.json").read_text())["peft_type"] == "LORA"
    assert "RoundRecord(round 5: 4 clients, loss " in done.stdout
    assert "global_accuracy" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("[{'account': ")
    assert done.stderr == ""


def test_the_example_of_a_new_method(fedlora):
    script = ROOT / "examples" / "new_method.py"
    assert len(script.read_text().splitlines()) < 60
    code, said, err = fedlora("check", f"{script}:Momentum", "--examples", "8")
    assert (code, err) == (0, "")
    assert "broken" not in said


def test_the_example_of_a_new_stage(config, fedlora, tmp_path):
    script = ROOT / "examples" / "new_stage.py"
    assert len(script.read_text().splitlines()) < 60
    code, said, err = fedlora("check", f"{script}:Rounded", "--examples", "4")
    assert (code, err) == (0, "")
    assert "broken" not in said
    path = config(method={"name": "fedit"})
    path.write_text(f'{path.read_text()}\n[[stage]]\nname = "{script}:Rounded"\nunit = 0.01\n')
    code, said, err = fedlora("run", path, "--out", tmp_path / "out")
    assert (code, err) == (0, "")


def test_stopping_and_saving(config, tmp_path):
    import fedlora

    run = fedlora.run(config(method={"name": "fedsa"}, run={"rounds": 5}))
    for record in run:
        if record.round == 2:
            break
    assert run.server.round == 2
    assert not run.finished
    with pytest.raises(fedlora.UserError, match="no global model: name a client, c0, c1, c2"):
        run.save(tmp_path / "adapter")
    with pytest.raises(fedlora.UserError, match="no client 'c7'"):
        run.save(tmp_path / "adapter", client="c7")
    run.save(tmp_path / "adapter", client="c1")
    assert json.loads((tmp_path / "adapter" / "fedlora.json").read_text())["client"] == "c1"


def test_stopped_and_gone_on_from_python(config, tmp_path):
    import fedlora

    path = config(method={"name": "lora-a2"}, run={"rounds": 3})
    for _ in fedlora.run(path, out=tmp_path / "whole"):
        pass
    for record in fedlora.run(path, out=tmp_path / "parts"):
        if record.round == 1:
            break
    for _ in fedlora.run(path, out=tmp_path / "parts", resume=True):
        pass
    names = [p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*") if p.is_file()]
    for name in names:
        same = (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
        assert same or name.name == "timings.jsonl", name


def test_own_lists(small):
    import fedlora
    from fedlora.errors import DataError

    texts, labels = ["my card", "card my", "account"] * 4, [1, 1, 0] * 4
    data = fedlora.from_lists(texts, labels, texts[:3], labels[:3], owners=["a", "b", "a"] * 4)
    assert (data.labels, len(data.train), len(data.test)) == (("0", "1"), 12, 3)
    config = {
        "split": {"kind": "natural"},
        "model": {"base": str(small / "base")},
        "adapter": {"rank": 1},
        "run": {"rounds": 1},
    }
    (record,) = fedlora.run(config, data)
    assert [client.client for client in record.clients] == ["a", "b"]
    for wrong in ((texts, labels[1:], texts, labels), (texts, labels, texts, labels, ["a"])):
        with pytest.raises(DataError, match="give one"):
            fedlora.from_lists(*wrong)


def test_import_loads_no_torch_and_help_is_quick(tmp_path):
    done = python(
        "-c", "import fedlora, sys; print('torch' in sys.modules, 'transformers' in sys.modules)", cwd=tmp_path
    )
    assert done.stdout.split() == ["False", "False"]
    done = python("-c", "import fedlora, sys; fedlora.LowRank; print('torch' in sys.modules)", cwd=tmp_path)
    assert done.stdout.split() == ["True"]  # the check above can fail
    done = python("-X", "importtime", "-c", "import fedlora.cli", cwd=tmp_path)
    assert not any(name in done.stderr for name in ("torch", "transformers", "numpy", "pydantic"))


def test_the_public_names_are_there():
    import fedlora

    for name in fedlora.__all__:
        assert getattr(fedlora, name) is not None
    assert set(dir(fedlora)) == set(fedlora.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        fedlora.nothing  # noqa: B018
