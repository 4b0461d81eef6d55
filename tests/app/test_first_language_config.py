"""`fedlora init` and `fedlora show` on data of language modelling."""

import json
import tomllib

import pytest

from fedlora.training.generated.facts import generated_facts

TALK = [
    {"role": "user", "content": "Where is the library of the town?"},
    {"role": "assistant", "content": "Behind the old station."},
]
LAYOUTS = {
    "prompt-completion": {"prompt": "Say it in other words: the mill is old.", "completion": "The old mill."},
    "question-answer": {"question": "How many legs have three cats?", "answer": "3 * 4 = 12 #### 12"},
    "alpaca": {"instruction": "Name a colour of the sky.", "input": "at night", "output": "black"},
    "messages": {"messages": TALK},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "Who are you?"}, {"from": "gpt", "value": "A cat on a mat."}]
    },
    "text": {"text": "Once upon a time a cat sat on a mat and looked at the moon."},
}


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def started(command, data, *words):
    out = data.with_suffix(".toml")
    code, said, err = command("init", data, "--out", out, *words)
    assert (code, err) == (0, "")
    return tomllib.loads(out.read_text()), said


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_every_format_is_found_and_its_config_is_read(command, tmp_path, name):
    data = written(tmp_path / "data.jsonl", [LAYOUTS[name]] * 60)
    config, said = started(command, data)
    assert config["model"]["task"] == "generate"
    assert config["data"]["format"] == name
    assert config["split"]["kind"] == "iid"
    assert 16 <= config["model"]["max_length"] <= 64
    assert "60 examples of language modelling" in said
    assert f"fedlora show {data.with_suffix('.toml')}" in said


def test_the_config_that_init_writes_runs(command, tmp_path, smallest_decoder):
    examples = generated_facts(60, 1).train.examples
    rows = [{"prompt": e.prompt, "completion": e.completion, "references": list(e.references)} for e in examples]
    rows = [{**row, "choices": json.dumps([row["completion"], "none of them"])} for row in rows]
    data = written(tmp_path / "data.jsonl", rows)
    _, said = started(command, data)
    assert (
        "with further right answers in 'references', with texts to choose among in 'choices' (evaluate.metrics)" in said
    )
    assert "or 'choices': --owner" not in said
    tried = ("--set", f"model.base={smallest_decoder}", "--set", "run.rounds=1", "--set", "adapter.rank=2")
    tried += ("--set", 'evaluate.metrics=["choice"]')
    code, _, err = command("run", data.with_suffix(".toml"), "--out", tmp_path / "out", *tried)
    assert code == 0, err
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["global"]["loss"] > 0
    assert 0.0 <= summary["global"]["choice"] <= 1.0


def test_owners_become_natural_clients(command, tmp_path):
    rows = [{**LAYOUTS["text"], "role": f"role {n % 4}"} for n in range(80)]
    data = written(tmp_path / "data.jsonl", rows)
    config, said = started(command, data, "--task", "generate")
    assert config["split"]["kind"] == "iid"
    assert "Whose an example is may stand in 'role': --owner" in said
    data = written(tmp_path / "again.jsonl", rows)
    config, _ = started(command, data, "--task", "generate", "--owner", "role")
    assert config["split"] == {"kind": "natural", "column": "role", "validation": 0.1}


def test_labelled_texts_are_classified_unless_it_is_said_otherwise(command, small, tmp_path):
    rows = [json.loads(line) for line in (small / "data/train.jsonl").read_text().splitlines()]
    config, said = started(command, written(tmp_path / "one.jsonl", rows))
    assert "task" not in config["model"]
    assert "to classify (--task generate makes a language model of them)" in said
    config, _ = started(command, written(tmp_path / "two.jsonl", rows), "--task", "generate", "--label", "label")
    assert (config["data"]["format"], config["data"]["label"]) == ("text", "label")
    assert config["split"]["kind"] == "dirichlet"


def test_the_column_of_texts_may_have_any_name(command, tmp_path):
    data = written(tmp_path / "data.jsonl", [{"id": n, "body": f"{LAYOUTS['text']['text']} {n}"} for n in range(60)])
    config, said = started(command, data)
    assert (config["data"]["format"], config["data"]["text"]) == ("text", "body")
    assert "plain texts (text 'body')" in said


WRONG = [
    (("--task", "write"), [LAYOUTS["text"]] * 9, "--task is 'write'; expected classify or generate"),
    (("--task", "generate", "--owner", "who"), [LAYOUTS["text"]] * 9, "has no column 'who'"),
    (("--task", "generate"), [{"a": [1], "b": [2]}] * 9, "no column holds text among 'a', 'b'"),
    ((), [LAYOUTS["messages"], {"messages": TALK[:1]}], "row 2 of the train part, column 'messages': the last message"),
    (("--task", "classify"), [LAYOUTS["text"]] * 9, "no column looks like a label besides the text 'text'"),
    (
        (),
        [{"text": "some longer words here", "label": "a"}] * 9,
        "no column looks like a label besides the text 'text'",
    ),
]


@pytest.mark.parametrize(("words", "rows", "sentence"), WRONG)
def test_what_init_cannot_take_is_one_sentence(command, tmp_path, words, rows, sentence):
    data = written(tmp_path / "data.jsonl", rows)
    code, _, err = command("init", data, "--out", tmp_path / "out.toml", *words)
    assert code == 2
    assert sentence in err
    assert not (tmp_path / "out.toml").exists()


@pytest.fixture
def facts(tmp_path, smallest_decoder):
    """A config of generated facts of two owners, on the smallest decoder."""
    data = generated_facts(30, 6)
    (tmp_path / "facts").mkdir()
    for part in ("train", "test"):
        rows = [
            {"prompt": e.prompt, "completion": e.completion, "who": f"ward {n % 3 > 0}"}
            for n, e in enumerate(getattr(data, part).examples)
        ]
        written(tmp_path / "facts" / f"{part}.jsonl", rows)
    path = tmp_path / "facts.toml"
    path.write_text(f"""
    run.rounds = 1
    data = {{source = "files", path = "{tmp_path}/facts"}}
    split = {{kind = "natural", column = "who"}}
    model = {{task = "generate", base = "{smallest_decoder}", max_length = 64}}
    adapter.rank = 2
    method.name = "fedit"
    """)
    return path


def test_show_tells_tokens_lengths_and_owners(command, facts):
    code, said, _ = command("show", facts, "--examples", "2")
    lines = said.splitlines()
    assert code == 0
    assert lines[0].startswith("30 training examples, ")
    assert sum(line.startswith("Example ") for line in lines) == 2
    assert sum(line.startswith("  given   | ") for line in lines) == 2
    assert all("<|end|>" in line for line in lines if line.startswith("  learned | "))
    assert any(line.startswith("6 test examples, ") for line in lines)
    assert "2 clients." in lines
    assert any(line.startswith("  ward True        20 examples") for line in lines)


def test_show_takes_the_folder_of_a_run(command, facts, tmp_path):
    assert command("run", facts, "--out", tmp_path / "out")[0] == 0
    assert command("show", tmp_path / "out") == command("show", facts)


def test_show_of_labelled_texts(command, config):
    code, said, _ = command("show", config(), "--examples", "1")
    assert code == 0
    assert said.startswith("200 training examples with 25 labels, ")
    assert "Example 1, " in said
    assert "60 test examples with 25 labels" in said
    assert "3 clients." in said


def test_show_tells_what_is_cut_or_split(command, facts, tmp_path):
    code, said, _ = command("show", facts, "--set", "model.max_length=24")
    assert code == 0
    assert "30 of 30 training examples are longer than model.max_length (24 tokens" in said
    texts = [{"text": "The old mill stands by the river. " * 9, "who": f"ward {n % 2}"} for n in range(10)]
    written(tmp_path / "facts/train.jsonl", texts)
    written(tmp_path / "facts/test.jsonl", texts[:2])
    code, said, _ = command("show", facts, "--set", "data.long_texts=split")
    assert code == 0
    assert "10 of 10 training texts are longer than model.max_length (64 tokens" in said
    assert "were split: " in said
    assert "were cut" not in said


def test_show_refuses_what_a_run_refuses(command, facts):
    code, _, err = command("show", facts, "--set", "data.end=</s>")
    assert code == 2
    assert "The end-of-text token '</s>' is no token" in err
