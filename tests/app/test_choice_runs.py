"""Runs that are scored by choice: numbers as of plain transformers on what is exported, and bad input refused."""

import csv
import json
from functools import cache

import pytest
import torch
from tests.text_data import rows, text_tree, write_data, write_decoder, write_rows

import fedlora as package
from fedlora.training.metrics.choice import Choice, most_likely, most_likely_per_byte

ONE = {"rounds": 1}
METRICS = {"metrics": ["choice", "choice_per_byte", "exact_match"], "most_new_tokens": 4}
WRONG = ("There is no such thing here, my friend.", "The", "The cat is black.")


def with_choices(found):
    """Rows with choices of unequal lengths, the right one at places that change."""
    for number, row in enumerate(found):
        choices = list(WRONG[: 1 + number % 3])
        choices.insert(number % (len(choices) + 1), row["completion"])
        yield {**row, "choices": choices}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("choices")
    write_decoder(folder / "base")
    write_data(folder / "data")
    write_rows(folder / "data" / "test.jsonl", with_choices(rows(16, 5)))
    return folder


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(tree, out, **options):
    for _ in package.run(tree, out=out, **options):
        pass
    return read(out / "generations.jsonl"), json.loads((out / "summary.json").read_text())


@cache
def exported(home, adapter):
    """Tokenizer and model as PEFT and transformers load them."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(home / "base", dtype=torch.float32)
    return AutoTokenizer.from_pretrained(adapter), PeftModel.from_pretrained(model, adapter).eval()


def transformers_sums(home, adapter, prompt, texts):
    """Of each text the log-probabilities of its tokens behind the prompt, from the logits of PEFT and transformers."""
    words, model = exported(home, adapter)
    before = words(prompt, add_special_tokens=False)["input_ids"]
    for text in texts:
        ids = words(prompt + text, add_special_tokens=False)["input_ids"]
        assert ids[: len(before)] == before
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(dim=1)
        yield sum(float(logits[place - 1, ids[place]]) for place in range(len(before), len(ids)))


@pytest.mark.parametrize(("method", "style"), [("fedit", "auto"), ("fedsa", "auto"), ("fedit", "chat")])
def test_likelihoods_and_choices_are_those_of_transformers_on_the_exported_model(home, tmp_path, method, style):
    tree = text_tree(home, run=ONE, method={"name": method}, evaluate=METRICS, data={"style": style})
    lines, summary = run(tree, tmp_path / "run")
    assert len(lines) == 16
    counts = {}
    for line in lines:
        folder = "adapter" if line["client"] is None else f"clients/{line['client']}/adapter"
        texts = [choice["text"] for choice in line["choices"]]
        expected = list(transformers_sums(home, tmp_path / "run" / folder, line["prompt"], texts))
        assert [choice["log_likelihood"] for choice in line["choices"]] == pytest.approx(expected, abs=1e-4)
        told = [Choice(text, value) for text, value in zip(texts, expected, strict=True)]
        assert line["chosen"] == most_likely(told).text
        assert line["chosen_per_byte"] == most_likely_per_byte(told).text
        assert line["answers"][0] in texts
        assert line["sums"]["choice"] == int(line["chosen"] == line["answers"][0])
        assert line["sums"]["choice_per_byte"] == int(line["chosen_per_byte"] == line["answers"][0])
        assert "generated" in line
        counts.setdefault(line["client"], []).append(line["sums"]["choice"])
    means = [sum(one) / len(one) for one in counts.values()]
    key = "global" if method == "fedit" else "personal"
    found = summary["global"]["choice"] if method == "fedit" else summary["personal"]["mean"]
    assert found == pytest.approx(sum(means) / len(means))
    assert summary["intervals"][key]["choice"][0] <= found <= summary["intervals"][key]["choice"][1]
    task = json.loads((tmp_path / "run" / "environment.json").read_text())["task"]
    assert [metric["name"] for metric in task["metrics"]][:4] == ["choice", "choice_per_byte", "exact_match", "loss"]
    assert "end-of-text left out" in task["signatures"]["choice"]


def test_for_choices_alone_nothing_is_generated_and_the_base_is_a_row_too(home, tmp_path, monkeypatch):
    def never(*args):
        raise AssertionError("a metric of choices generates nothing")

    monkeypatch.setattr("fedlora.training.answers.generate", never)
    lines, summary = run(
        text_tree(home, run=ONE, evaluate={"metrics": ["choice"]}, method={"name": "base"}), tmp_path / "base"
    )
    assert all("generated" not in line for line in lines)
    assert summary["global"]["choice"] == sum(line["chosen"] in line["answers"] for line in lines) / 16


def test_equal_runs_have_equal_files_whatever_the_workers_and_the_file_format(home, tmp_path):
    for name, workers in (("two", 2), ("one", 1)):
        run(text_tree(home, run=ONE, evaluate=METRICS, method={"name": "fedsa"}), tmp_path / name, workers=workers)
    tables = tmp_path / "tables"
    tables.mkdir()
    for part in ("train", "test"):
        found = read(home / "data" / f"{part}.jsonl")
        with (tables / f"{part}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, [*found[0]])
            writer.writeheader()
            writer.writerows(
                {**row, **({"choices": json.dumps(row["choices"])} if part == "test" else {})} for row in found
            )
    tree = text_tree(home, run=ONE, evaluate=METRICS, method={"name": "fedsa"}, data={"path": str(tables)})
    run(tree, tmp_path / "csv", workers=1)
    for name in ("generations.jsonl", "rounds.jsonl", "clients.jsonl"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "csv" / name).read_bytes()


@pytest.mark.parametrize("part", ["test", "validation"])
def test_validation_parts_and_clients_that_never_train_choose_too(home, tmp_path, part):
    write_rows(tmp_path / "data" / "all.jsonl", with_choices(rows(60)))
    natural = {"kind": "natural", "column": "site", "test_by": "order", "unseen": 1, "validation": 0.2}
    data = {"path": str(tmp_path / "data" / "all.jsonl")}
    evaluate = {"metrics": ["choice"], "part": part}
    lines, summary = run(text_tree(home, run=ONE, data=data, split=natural, evaluate=evaluate), tmp_path / "run")
    assert {line["part"] for line in lines} == ({part, "unseen"} if part == "test" else {part})
    if part == "test":
        unseen = [line["sums"]["choice"] for line in lines if line["part"] == "unseen"]
        assert summary["unseen_clients"]["choice"]["weighted_mean"] == pytest.approx(sum(unseen) / len(unseen))
    known = {row["completion"] for row in rows(60)}
    assert all(line["answers"][0] in known and line["chosen"] in [c["text"] for c in line["choices"]] for line in lines)


def test_what_lies_below_the_adapted_layers_is_read_for_choices_too(home, tmp_path):
    found = []
    for gigabytes in (1.0, 0.0):
        tree = text_tree(home, run=ONE, evaluate={"metrics": ["choice"]}, train={"trunk_cache_gb": gigabytes})
        tree["adapter"] = {"rank": 2, "layers": [1]}
        lines, _ = run(tree, tmp_path / str(gigabytes))
        found.append([choice["log_likelihood"] for line in lines for choice in line["choices"]])
    assert found[0] == pytest.approx(found[1], abs=1e-3)


def test_rows_that_are_handed_over_in_python_may_have_choices(home):
    found = list(with_choices(rows(40)))
    tree = text_tree(home, run=ONE, evaluate={"metrics": ["choice"]})
    tree.pop("data")
    records = list(package.run(tree, data={"train": found, "test": found[:8]}))
    assert 0.0 <= records[-1].global_metrics["choice"] <= 1.0


BAD = [
    ({}, {"evaluate": {"metrics": ["chioce"]}}, "evaluate.metrics names 'chioce', which is no metric of answers: did you mean 'choice'"),
    ({"choices": None}, {}, "row 1 of the test part has no column 'choices' with the texts to choose among, which evaluate.metrics asks for; it has 'prompt', "),
    ({}, {"data": {"choices": "options"}}, "has no column 'options' with the texts to choose among"),
    ({"choices": ["The"]}, {}, "row 1 of the test part has 1 of the texts to choose among in the column 'choices', expected at least two"),
    ({"choices": ["The", "A"]}, {}, "which is not among the texts to choose among in the column 'choices' (['The', 'A'])"),
    ({"choices": ["The", "The"]}, {}, "has 'The' 2 times in the column 'choices'"),
    ({}, {"split": {"validation": 0.2}}, "of the training part is scored and has no texts to choose among, which evaluate.metrics asks for"),
    ({"choices": ["a" * 200, None]}, {}, "which leaves no room for a prompt: raise it, or leave the example out."),
]  # fmt: skip


@pytest.mark.parametrize(("change", "sections", "sentence"), BAD)
def test_what_cannot_be_chosen_is_refused_before_the_run(home, tmp_path, change, sections, sentence):
    write_rows(tmp_path / "data" / "train.jsonl", rows(48))
    found = list(with_choices(rows(16, 5)))
    if None in (change.get("choices") or []):
        change = {"choices": [text or found[0]["completion"] for text in change["choices"]]}
    found[0] = {name: value for name, value in {**found[0], **change}.items() if value is not None}
    write_rows(tmp_path / "data" / "test.jsonl", found)
    tree = text_tree(home, run=ONE, evaluate={"metrics": ["choice"]})
    for section, keys in {"data": {"path": str(tmp_path / "data")}, **sections}.items():
        tree[section] = {**tree.get(section, {}), **keys}
    tree["data"]["path"] = str(tmp_path / "data")
    with pytest.raises(package.UserError) as refused:
        package.run(tree, out=tmp_path / "run")
    assert sentence in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_plain_texts_and_classifiers_choose_nothing(home, tmp_path, config, command):
    write_rows(tmp_path / "data" / "train.jsonl", [{"text": row["completion"]} for row in rows(20)])
    write_rows(tmp_path / "data" / "test.jsonl", [{"text": row["completion"]} for row in rows(20)])
    with pytest.raises(package.UserError, match="which score answers, but the examples are plain texts"):
        package.run(text_tree(home, run=ONE, evaluate={"metrics": ["choice"]}, data={"path": str(tmp_path / "data")}))
    code, _, err = command("run", config(evaluate={"metrics": ["choice"]}))
    assert (code, "which score answers, but model.task is 'classify'" in err) == (2, True)
    code, _, err = command("run", config(data={"choices": "options"}))
    assert (code, "data.choices is 'options', which is for language modelling, but model.task" in err) == (2, True)


def test_other_choices_are_another_run(home, tmp_path):
    """A run that goes on with other choices than it began with would mix two scores."""
    tree = text_tree(home, run=ONE, evaluate={"metrics": ["choice"]})
    digests = []
    for number, wrong in enumerate(("The", "No")):
        found = [{**row, "choices": [row["completion"], wrong]} for row in rows(16, 5)]
        write_rows(tmp_path / str(number) / "test.jsonl", found)
        write_rows(tmp_path / str(number) / "train.jsonl", rows(48))
        tree["data"]["path"] = str(tmp_path / str(number))
        run(tree, tmp_path / f"run-{number}")
        digests.append(json.loads((tmp_path / f"run-{number}" / "split.json").read_text())["digests"])
    assert digests[0]["test"] != digests[1]["test"]
    assert digests[0]["train"] == digests[1]["train"]
