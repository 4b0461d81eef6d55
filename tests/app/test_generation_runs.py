"""Runs of language models that are scored by what they generate, and their models asked afterwards."""

import json
import sys

import numpy
import pytest
from causal_models import causal_model, random_start
from chats import tokenizer

import fedlora as package
from fedlora.core.metrics import Score
from fedlora.training import answers as answering
from fedlora.training.bases.loading import load_causal_base
from fedlora.training.generation import Limits, generate
from fedlora.training.metrics.generation import generation_metrics

WORDS = ("cat", "mat", "house", "wood", "woman", "France", "Paris", "day")


def rows(count, kind):
    for n in range(count):
        asked, said = f"the {WORDS[n % 8]} and the {WORDS[n // 8 % 8]}?", f"good {WORDS[n % 8]}"
        if kind == "messages":
            yield {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}
        elif kind == "text":
            yield {"text": asked}
        else:
            yield {"prompt": asked, "completion": said, "references": [f"a {said}"]}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A base of random weights, and data of three formats."""
    folder = tmp_path_factory.mktemp("generation")
    words = tokenizer("byte-level", "chatml")
    causal_model("llama", vocabulary=max(words.get_vocab().values()) + 1, positions=64).float().save_pretrained(
        folder / "base"
    )
    words.save_pretrained(folder / "base")
    for kind in ("pairs", "messages", "text"):
        (folder / kind).mkdir()
        for part, count in (("train", 24), ("test", 10)):
            lines = "".join(json.dumps(row) + "\n" for row in rows(count, kind))
            (folder / kind / f"{part}.jsonl").write_text(lines)
    return folder


def tree(home, kind="pairs", method="fedsa", **sections):
    found = {
        "run": {"rounds": 1},
        "data": {"source": "files", "path": str(home / kind)},
        "split": {"kind": "iid", "clients": 2},
        "model": {"base": str(home / "base"), "task": "generate", "max_length": 64},
        "adapter": {"rank": 2},
        "train": {"lr": 5e-3},
        "method": {"name": method},
        "evaluate": {"metrics": ["chrf", "exact_match"], "most_new_tokens": 5},
    }
    for section, keys in sections.items():
        found[section] = {**found.get(section, {}), **keys}
    return found


@pytest.fixture(scope="module")
def runs(home):
    """A run with personal models, the same once more, and one with a global model on conversations."""
    for name, more, workers in (
        ("fedsa", {}, 2),
        ("again", {}, 1),
        ("fedit", {"kind": "messages", "method": "fedit"}, 2),
    ):
        for _ in package.run(tree(home, **more), out=home / name, workers=workers):
            pass
    return home


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_generated_metrics_come_first_in_every_record(runs):
    task = json.loads((runs / "fedsa" / "environment.json").read_text())["task"]
    assert [metric["name"] for metric in task["metrics"]][:3] == ["chrf", "exact_match", "loss"]
    assert task["signatures"]["chrf"].startswith("chrF2|nrefs:2|case:mixed")
    assert "nrefs:1|" in json.loads((runs / "fedit" / "environment.json").read_text())["task"]["signatures"]["chrf"]
    summary = json.loads((runs / "fedit" / "summary.json").read_text())
    assert list(summary["global"])[:4] == ["chrf", "exact_match", "loss", "perplexity"]


@pytest.mark.parametrize(("name", "clients"), [("fedsa", ["c0"] * 5 + ["c1"] * 5), ("fedit", [None] * 10)])
def test_generations_say_what_each_final_model_answered_and_add_up_to_its_score(runs, name, clients):
    lines, summary = read(runs / name / "generations.jsonl"), json.loads((runs / name / "summary.json").read_text())
    assert [line["client"] for line in lines] == clients
    assert sorted(line["example"] for line in lines) == list(range(10))
    (chrf,) = generation_metrics(["chrf"])
    scores = []
    for client in dict.fromkeys(clients):
        mine = [line for line in lines if line["client"] == client]
        scores.append(chrf.metric.of(sum((Score(1, line["sums"]) for line in mine), Score(0))))
    told = summary["global"]["chrf"] if name == "fedit" else summary["personal"]["mean"]
    assert sum(scores) / len(scores) == pytest.approx(told)
    low, high = summary["intervals"]["global" if name == "fedit" else "personal"]["chrf"]
    assert low <= told <= high
    assert low < high
    if name == "fedit":
        assert summary["intervals"]["global"]["exact_match"][0] == 0.0
    number = lines[3]["example"]
    expected = list(rows(10, "messages" if name == "fedit" else "pairs"))[number]
    if name == "fedsa":
        assert lines[3]["prompt"] == expected["prompt"] + "\n"
        assert lines[3]["answers"] == [expected["completion"], *expected["references"]]
    else:
        assert lines[3]["prompt"].endswith("<|im_start|>assistant\n")
        assert lines[3]["answers"] == [expected["messages"][1]["content"]]


def test_equal_runs_have_equal_files_whatever_the_workers(runs):
    for name in ("generations.jsonl", "summary.json", "rounds.jsonl", "clients.jsonl", "environment.json"):
        assert (runs / "fedsa" / name).read_bytes() == (runs / "again" / name).read_bytes()


def test_the_last_evaluation_has_generated_what_the_folder_tells(home, tmp_path, monkeypatch):
    sizes = []

    def counted(base, spec, start, prompts, limits, real=answering.generate):
        assert isinstance(limits, Limits)
        sizes.append(len(prompts))
        return real(base, spec, start, prompts, limits)

    monkeypatch.setattr(answering, "generate", counted)
    for _ in package.run(tree(home, method="fedit", evaluate={"every": 0}), out=tmp_path / "run", workers=1):
        pass
    assert sizes == [5, 5], "each of ten examples once: both clients hold the global model"
    assert len(read(tmp_path / "run" / "generations.jsonl")) == 10


def test_a_finished_run_is_asked_by_command_and_from_python(runs, command):
    code, out, err = command("generate", runs / "fedit", "the cat and the mat?", "the day?", "--most", "4")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "the cat and the mat?"
    assert "the day?\n" in out
    found = package.load_run(runs / "fedit").generate(["the cat and the mat?", "the day?"], most=4)
    assert [f"  {line}" for text in found for line in text.strip().splitlines()] == [
        line for line in out.splitlines() if line.startswith("  ")
    ]
    mine, theirs = (package.load_run(runs / "fedsa").generate("the cat?", client, most=8) for client in ("c0", "c1"))
    assert mine != theirs


def test_what_is_asked_afterwards_is_what_the_run_asked(runs):
    """The prompts of generations.jsonl, asked again, get the same answers: with the chat template where the run had it."""
    for name in ("fedit", "fedsa"):
        line = read(runs / name / "generations.jsonl")[0]
        row = list(rows(10, "messages" if name == "fedit" else "pairs"))[line["example"]]
        prompt = row["messages"][0]["content"] if name == "fedit" else row["prompt"]
        (found,) = package.load_run(runs / name).generate(prompt, line["client"])
        assert found == line["generated"]


def test_a_run_in_progress_answers_too(home):
    run = package.run(tree(home, method="fedit"))
    next(iter(run))
    assert run.generate("the cat?", most=3) == run.generate(["the cat?"], "c0", most=3)
    with pytest.raises(package.UserError, match="writes text and knows no labels: ask it with fedlora generate"):
        run.predict("the cat?")


def test_a_dense_model_is_asked(home, tmp_path):
    run = package.run(tree(home, method="full", evaluate={"metrics": []}), out=tmp_path / "run")
    list(run)
    found = package.load_run(tmp_path / "run").generate("the cat and the mat?", most=8)
    assert found == run.generate("the cat and the mat?", most=8)
    assert not (tmp_path / "run" / "generations.jsonl").exists()


def test_the_base_alone_is_scored_untrained_and_sends_nothing(home, tmp_path):
    out = tmp_path / "run"
    for record in package.run(tree(home, method="base", run={"rounds": 2}), out=out):
        assert (record.traffic.up, record.traffic.down, record.steps, record.loss) == (0, 0, 0, None)
    first, second = read(out / "rounds.jsonl")
    assert first["global"] == second["global"]
    lines = read(out / "generations.jsonl")
    assert {line["client"] for line in lines} == {None}, "every client has the base"
    base = load_causal_base(str(home / "base"))
    nothing, spec = random_start(base, size=0.0), base.spec(2, 1.0)
    prompt = numpy.array(base.tokenizer(lines[0]["prompt"])["input_ids"], dtype=numpy.int32)
    (answer,) = generate(base, spec, nothing, [prompt], Limits((base.tokenizer.eos_token_id,), 64, 5))
    assert answer.text == lines[0]["generated"]


def test_each_command_names_the_other_where_it_is_not_the_one(runs, command, config, tmp_path):
    code, _, err = command("predict", runs / "fedit", "the cat?")
    assert (code, "is the run of a language model" in err, "fedlora generate" in err) == (2, True, True)
    assert command("run", config(run={"rounds": 1}), "--out", tmp_path / "classes")[0] == 0
    code, _, err = command("generate", tmp_path / "classes", "the cat?")
    assert (code, "is the run of a classifier, which writes no text: ask it with fedlora predict" in err) == (2, True)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"kind": "text"}, "the examples are plain texts, which answer nothing: leave it out, or give prompts"),
        ({"evaluate": {"metrics": ["blue"]}}, "evaluate.metrics names 'blue', which is no metric of answers: did you mean 'bleu'"),
        ({"evaluate": {"most_new_tokens": 0}}, "evaluate.most_new_tokens is 0; "),
    ],
)  # fmt: skip
def test_what_cannot_be_scored_is_refused_before_the_run(home, tmp_path, more, sentence):
    with pytest.raises(package.UserError) as refused:
        package.run(tree(home, **more), out=tmp_path / "run")
    assert sentence.lower() in str(refused.value).lower()
    assert not (tmp_path / "run").exists()


def test_a_classifier_generates_nothing(config, command):
    code, _, err = command("run", config(evaluate={"metrics": ["bleu"]}))
    assert (code, "score answers, but model.task is 'classify'" in err) == (2, True)


def test_a_prompt_without_room_for_an_answer_is_refused(runs, command):
    code, _, err = command("generate", runs / "fedit", "the cat " * 60)
    assert (code, "which leaves no room for an answer" in err) == (2, True)


def test_a_missing_package_is_told_before_anything_is_loaded(home, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.chrf", None)
    with pytest.raises(package.UserError, match=r"chrF needs the package sacrebleu.*pip install 'fedlora\[generate\]'"):
        package.run(tree(home, model={"base": "nowhere"}), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_planted_an_adapter_that_is_off_changes_what_runs_tell(home, tmp_path, monkeypatch):
    from fedlora.training import generation

    for _ in package.run(tree(home, train={"lr": 0.1, "epochs": 4}), out=tmp_path / "on"):
        pass
    monkeypatch.setattr(generation, "additions", lambda start, spec: {})
    for _ in package.run(tree(home, train={"lr": 0.1, "epochs": 4}), out=tmp_path / "off"):
        pass
    on, off = (read(tmp_path / name / "generations.jsonl") for name in ("on", "off"))
    assert sum(one["generated"] != other["generated"] for one, other in zip(on, off, strict=True)) > 5
