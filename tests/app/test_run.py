"""Real runs through the command line, and what their folders hold."""

import json

import pytest
import torch

from fedlora.app.build.simulation import build
from fedlora.app.config.schema import read_config
from fedlora.methods import BUILT_IN

CLIENT_KEYS = [
    "round",
    "client",
    "examples",
    "rank",
    "bytes_down",
    "bytes_up",
    "overhead_bytes",
    "parameters_up",
    "loss",
    "score",
    "status",
    "notes",
]
SUMMARY_KEYS = ["method", "rounds", "scale", "global", "personal", "bytes_up", "bytes_down", "parameters_up", "seed"]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("method", BUILT_IN)
def test_every_method_runs_and_leaves_its_folder(config, fedlora, tmp_path, method):
    out = tmp_path / "out"
    mixed = BUILT_IN[method]().facts.mixed_ranks
    path = config(method={"name": method}, clients={"ranks": [1, 3]} if mixed else {})
    code, said, err = fedlora("run", path, "--out", out)
    assert (code, err) == (0, "")
    assert "round 2/2" in said
    summary = json.loads((out / "summary.json").read_text())
    clients, rounds = lines(out / "clients.jsonl"), lines(out / "rounds.jsonl")
    assert all(key in summary for key in SUMMARY_KEYS)
    assert all(key in client for key in CLIENT_KEYS for client in clients)
    assert summary["bytes_up"] == sum(client["bytes_up"] for client in clients)
    assert summary["bytes_down"] == sum(client["bytes_down"] for client in clients)
    assert summary["parameters_up"] == sum(client["parameters_up"] for client in clients)
    assert [own["round"] for own in rounds] == [1, 2]
    assert len(lines(out / "timings.jsonl")) == 2
    assert summary["personal"]["count"] + summary["personal"]["empty"] == (1 if method == "central" else 3)
    exact = BUILT_IN[method]().facts.exact
    assert (summary["global"] is None) == (exact == "none" and method != "central")
    whole = method in ("full", "flora", "fedex")  # on maps this small a merged update is dense after a round
    assert (out / ("model" if whole else "adapter")).is_dir() == (exact != "none" or method == "central")
    personal = sorted(own.name for own in (out / "clients").glob("*")) if (out / "clients").is_dir() else []
    truncated = mixed and method not in ("lora-a2", "flora", "base")  # a low-rank client has the first slots only
    assert personal == (["c0", "c1", "c2"] if method in ("fedsa", "local") else ["c0", "c2"] if truncated else [])
    if summary["global"] and method not in ("central",) and not truncated:
        assert summary["personal"]["weighted_mean"] == pytest.approx(summary["global"]["accuracy"])


def test_clients_score_by_every_metric_where_that_is_asked(config, fedlora, tmp_path):
    """The clients' test parts are the whole test set, so their sums give the F1 of the global model on it."""
    out = tmp_path / "run"
    assert fedlora("run", config(evaluate={"all_metrics": True}), "--out", out)[0] == 0
    summary, environment = (json.loads((out / file).read_text()) for file in ("summary.json", "environment.json"))
    names = [metric["name"] for metric in environment["task"]["metrics"]]
    assert names == ["accuracy", "loss", "macro_f1", "weighted_f1"]
    assert set(summary["global"]) == {*names, "examples"}
    for name in names[1:]:
        assert summary["personal"][name] == pytest.approx(summary["global"][name], rel=1e-5)
    assert "personal macro_f1" in (out / "report.html").read_text()


def test_clients_do_not_tell_their_labels_by_default(config, fedlora, tmp_path):
    assert fedlora("run", config(), "--out", tmp_path / "run")[0] == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert set(summary["global"]) == {"accuracy", "loss", "macro_f1", "weighted_f1", "examples"}
    assert not {"macro_f1", "weighted_f1"} & set(summary["personal"])


def test_equal_runs_give_equal_bytes(config, fedlora, tmp_path):
    """Whatever the number of workers."""
    for name, workers in (("one", 1), ("two", 3)):
        path = config(method={"name": "lora-a2"})
        assert fedlora("run", path, "--out", tmp_path / name, "--workers", workers)[0] == 0
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file())
    assert len(files) >= 9
    for file in files:
        same = (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
        assert same or file.name == "timings.jsonl", file


def test_an_adapter_has_no_path_of_this_machine_but_its_local_bases(config, fedlora, tmp_path, small):
    out = tmp_path / "out"
    fedlora("run", config(), "--out", out)
    naming = set()
    for file in (out / "adapter").iterdir():
        data = file.read_bytes()
        naming |= {file.name} if str(small / "base").encode() in data else set()
        rest = data.replace(str(small / "base").encode(), b"")
        assert str(small).encode() not in rest, file
        assert str(tmp_path).encode() not in rest, file
    assert naming == {"adapter_config.json", "fedlora.json", "README.md"}


def test_the_exported_adapter_is_the_model_that_was_scored(config, fedlora, small, tmp_path):
    """Stock PEFT on the exported folder, label names from beside it: the accuracy of summary.json."""
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    out = tmp_path / "out"
    fedlora("run", config(method={"name": "flexlora"}, adapter={"head": "frozen"}), "--out", out)
    assert fedlora("export", out, tmp_path / "mine")[0] == 0
    about = json.loads((tmp_path / "mine" / "fedlora.json").read_text())
    base = AutoModelForSequenceClassification.from_pretrained(small / "base", num_labels=len(about["labels"]))
    model = PeftModel.from_pretrained(base, str(tmp_path / "mine")).eval()
    tokenizer = AutoTokenizer.from_pretrained(small / "base")
    rows = lines(small / "data" / "test.jsonl")
    batch = tokenizer([row["text"] for row in rows], padding=True, truncation=True, max_length=24, return_tensors="pt")
    with torch.no_grad():
        guesses = model(batch["input_ids"], batch["attention_mask"]).logits.argmax(dim=1)
    right = sum(about["labels"][guess] == row["label"] for guess, row in zip(guesses.tolist(), rows, strict=True))
    assert right / len(rows) == json.loads((out / "summary.json").read_text())["global"]["accuracy"]


def test_a_run_can_go_on_from_its_own_adapter(config, fedlora, tmp_path):
    """Round 0 of the second run is the end of the first: equal scores before any training."""
    fedlora("run", config(), "--out", tmp_path / "one")
    second = build(read_config(config(adapter={"start": str(tmp_path / "one" / "adapter"), "scale": 3.0})))
    from fedlora.core.rounds import ScoreJob
    from fedlora.federation.server import begin, global_model

    server = begin(second.federation, second.trainer.head)
    (score,) = second.trainer.score([ScoreJob(None, global_model(second.federation, server))])
    summary = json.loads((tmp_path / "one" / "summary.json").read_text())
    metrics = second.trainer.scoring.values(score)
    assert metrics["accuracy"] == summary["global"]["accuracy"]
    assert metrics["loss"] == pytest.approx(summary["global"]["loss"], rel=1e-5)


def test_natural_clients_keep_their_names_on_disk(config, fedlora, tmp_path):
    path = config(split={"kind": "natural", "column": "ward"}, method={"name": "fedsa"})
    assert fedlora("run", path, "--out", tmp_path / "out")[0] == 0
    assert sorted(p.name for p in (tmp_path / "out" / "clients").iterdir()) == [f"ward%2F{n}" for n in range(3)]
    assert fedlora("export", tmp_path / "out", tmp_path / "mine", "--client", "ward/1")[0] == 0


def test_the_scale_is_one_number_and_has_no_pool_in_it(config):
    def scale(method, **adapter):
        return build(read_config(config(adapter={"rank": 2, **adapter}, method=method))).spec.scale

    assert scale({"name": "lora-a2", "pool_rank": 16}) == scale({"name": "fedit"}) == 8.0
    assert scale({"name": "fedit"}, scaling="rslora") == pytest.approx(16 / 2**0.5)
    assert scale({"name": "fedit"}, scale=3.5) == 3.5
    mixed = build(read_config(config(clients={"ranks": [1, 4]}, method={"name": "zeropad"})))
    assert (mixed.spec.rank, mixed.spec.scale) == (4, 4.0)


def test_the_rate_of_b_is_the_methods_own_unless_set(config):
    def ratio(method, **train):
        return build(read_config(config(method={"name": method}, train=train))).trainer._settings.lr_b_ratio

    assert (ratio("lora-a2"), ratio("fedit"), ratio("lora-a2", lr_b_ratio=2.0)) == (5.0, 1.0, 2.0)


def test_a_method_of_the_users_own(config, fedlora, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import dataclass\nfrom typing import ClassVar\n"
        "from fedlora.methods.fedit import FedIT\n\n@dataclass(frozen=True)\nclass Mine(FedIT):\n"
        '    name: ClassVar[str] = "mine"\n    strength: int = 1\n'
    )
    code, _, err = fedlora("run", config(method={"name": f"{file}:Mine", "strength": 3}), "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    code, _, err = fedlora("run", config(method={"name": f"{file}:Mine", "strenght": 3}), "--out", tmp_path / "b")
    assert code == 2
    assert "method.strenght: did you mean 'strength'?" in err
    code, said, _ = fedlora("check", f"{file}:Mine", "--examples", "3")
    assert code == 0
    assert said.count("held") == 14


def test_check_tells_what_is_broken(fedlora, tmp_path):
    file = tmp_path / "wrong.py"
    file.write_text(
        "from dataclasses import dataclass, replace\nfrom typing import ClassVar\n"
        "from fedlora.methods.fedit import FedIT\n\n@dataclass(frozen=True)\nclass Wrong(FedIT):\n"
        '    name: ClassVar[str] = "wrong"\n\n    @property\n    def facts(self):\n'
        '        return replace(super().facts, exact="update")\n'
    )
    code, said, err = fedlora("check", f"{file}:Wrong", "--examples", "20")
    assert code == 1
    assert "broken laws: wrong" in err
    assert "the update is off by" in said
    assert "ranks [1, 1]" in said  # the smallest world


def test_methods_as_json(fedlora):
    code, said, _ = fedlora("methods", "--json")
    assert code == 0
    listed = {own["name"]: own for own in json.loads(said)}
    assert list(listed) == list(BUILT_IN)
    assert listed["lora-a2"]["fields"]["pool_rank"]["doc"].startswith("r_G")
    assert "lora-a2" in fedlora("methods")[1]
