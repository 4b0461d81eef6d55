"""The public names in a script and in a notebook: what a newcomer looked for and did not find, or saw and should not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import fedlora

SECRET = "the patient in room twelve"


@pytest.fixture
def lists():
    texts = [f"{SECRET} {word} my {thing}" for word in ("open", "close") for thing in ("card", "account", "bill")] * 8
    return texts, [text.split()[5] for text in texts]


@pytest.fixture
def sections(small):
    """A config's sections but for its data."""
    return {
        "run": {"rounds": 2},
        "split": {"clients": 2, "kind": "iid"},
        "model": {"base": str(small / "base"), "max_length": 24},
        "adapter": {"rank": 2},
        "train": {"lr": 5e-3},
        "method": {"name": "fedit"},
    }


@pytest.mark.defect("R14")
def test_nothing_shows_a_private_text_or_a_tensor(lists, sections):
    data = fedlora.from_lists(*lists, test_texts=lists[0][:6], test_labels=lists[1][:6])
    run = fedlora.run(sections, data)
    records = list(run)
    for shown in (data, data.train, run, run.server, run.experiment, records[0], run.experiment.trainer):
        assert SECRET not in repr(shown)
        assert "tensor(" not in repr(shown)
        assert len(repr(shown)) < 200
    assert "fedit" in repr(run)


@pytest.mark.defect("R14")
def test_history_and_clients_are_frames(lists, sections, tmp_path):
    data = fedlora.from_lists(*lists, test_texts=lists[0][:6], test_labels=lists[1][:6])
    kept = fedlora.run(sections, data, out=tmp_path / "out")
    free = fedlora.run(sections, data)
    records = list(kept)
    assert len(list(free)) == 2
    for run in (kept, free):
        assert list(run.history.index) == [1, 2]
        assert run.history.loc[2, "global_accuracy"] == records[1].global_metrics["accuracy"]
        assert run.history.loc[2, "bytes_up"] == records[1].traffic.up
        assert set(run.clients["client"]) == {"c0", "c1"}
        assert len(run.clients) == 4
    assert kept.history.equals(free.history)
    assert kept.clients.equals(free.clients)


@pytest.mark.defect("R14")
def test_a_run_answers_and_makes_its_page(lists, sections, tmp_path, command):
    data = fedlora.from_lists(*lists, test_texts=lists[0][:6], test_labels=lists[1][:6])
    sections["model"]["base"] = str(sections["model"]["base"])
    run = fedlora.run(sections, data, out=tmp_path / "out")
    list(run)
    (answer,) = run.predict("please open my card")
    assert set(answer) == {"open", "close"}
    assert sum(answer.values()) == pytest.approx(1.0)
    assert len(run.predict(["one", "two"], top=1)) == 2
    said = command("predict", tmp_path / "out", "please open my card")[1]
    label, chance = next(iter(answer.items()))
    assert f"{100 * chance:5.1f} %  {label}" in said
    page = run.report()
    assert page == tmp_path / "out" / "report.html"
    assert page.is_file()
    assert "generated" not in page.read_text()


@pytest.mark.defect("R14")
def test_a_run_folder_is_loaded(config, tmp_path):
    list(fedlora.run(config(), out=tmp_path / "out"))
    run = fedlora.load_run(tmp_path / "out")
    assert run.finished
    assert run.summary["rounds"] == 2
    assert list(run.history.index) == [1, 2]
    assert run.config.method.name == "fedit"
    assert len(run.predict(["where is my card"], top=2)[0]) == 2
    assert run.report().is_file()
    assert "2 rounds, finished" in repr(run)
    with pytest.raises(fedlora.UserError, match="no run folder"):
        fedlora.load_run(tmp_path)


@pytest.mark.defect("R14")
def test_methods_are_compared(config, tmp_path):
    result = fedlora.compare(config(), methods=["fedit", "ffa"], seeds=2, out=tmp_path / "out")
    assert list(result.table.index) == ["fedit", "ffa"]
    assert set(result.table["seeds"]) == {2}
    assert len(result.runs) == 4
    assert result.page.is_file()
    assert result.failed == {}
    again = fedlora.compare(config(), methods=["fedit", "ffa"], seeds=2, out=tmp_path / "out")
    assert again.table.equals(result.table)
    with pytest.raises(fedlora.UserError, match="did you mean 'fedit'"):
        fedlora.compare(config(), methods=["fedti"], out=tmp_path / "other")


@pytest.mark.defect("R14")
def test_keyword_arguments_make_the_run_of_a_config(lists, sections, small):
    data = fedlora.from_lists(*lists, test_texts=lists[0][:6], test_labels=lists[1][:6])
    by_name = fedlora.run(
        data=data,
        base=small / "base",
        method="fedit",
        rounds=2,
        clients=2,
        rank=2,
        lr=5e-3,
        split={"kind": "iid"},
        model={"max_length": 24},
    )
    by_config = fedlora.run(sections, data)
    assert [r.loss for r in by_name] == [r.loss for r in by_config]
    for wrong, told in (
        ({"method": "fedti"}, "did you mean 'fedit'"),
        ({"round": 2}, "did you mean 'rounds'"),
        ({"alpha": 2.0}, "split={'alpha': ...} or adapter={'alpha': ...}"),
        ({"batch_size": 2}, "train={'batch_size': ...}"),
        ({"train": {"batchsize": 2}}, "did you mean 'batch_size'"),
        ({"rounds": 2, "run": {"rounds": 3}}, "run.rounds is given twice"),
        ({"base": 3}, "base is a int"),
        ({"data": 3}, "data is a int"),
    ):
        with pytest.raises(fedlora.UserError) as error:
            fedlora.run(**{"data": data, "base": small / "base", **wrong})
        assert told in str(error.value)


@pytest.mark.defect("R14")
@pytest.mark.parametrize("kind", ["encoder", "classifier"])
def test_a_loaded_model_is_taken_and_stays_as_it_is(lists, sections, small, kind):
    import torch
    from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

    labels = sorted(set(lists[1]))
    if kind == "encoder":
        model = AutoModel.from_pretrained(small / "base")
    else:
        model = AutoModelForSequenceClassification.from_pretrained(small / "base", num_labels=len(labels))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tokenizer = AutoTokenizer.from_pretrained(small / "base")
    data = fedlora.from_lists(*lists, test_texts=lists[0][:6], test_labels=lists[1][:6])
    tree = {name: keys for name, keys in sections.items() if name != "model"}
    run = fedlora.run(tree, data, base=model, tokenizer=tokenizer, model={"max_length": 24})
    losses = [record.loss for record in run]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    if kind == "encoder":  # its head is drawn from the run's seed, as for a folder
        assert losses == [record.loss for record in fedlora.run(sections, data)]
    assert run.predict("open my card")


@pytest.mark.defect("R14")
def test_tables_of_the_datasets_library_are_taken(lists, sections):
    import datasets

    whole = datasets.Dataset.from_dict({"body": lists[0], "wish": lists[1]})
    columns = {"text": "body", "label": "wish"}
    table = whole.class_encode_column("wish")
    run = fedlora.run({**sections, "data": columns}, table)
    assert set(run.predict("open my card")[0]) == {"open", "close"}
    parts = table.train_test_split(0.25, seed=0)
    assert list(fedlora.run({**sections, "data": columns}, parts))[1].loss > 0
    with pytest.raises(fedlora.UserError, match="no part 'test'"):
        fedlora.run(sections, datasets.DatasetDict(train=table))


@pytest.mark.defect("R14")
def test_lists_without_a_test_set_have_one_drawn(lists):
    data = fedlora.from_lists(*lists)
    assert (len(data.train), len(data.test)) == (38, 10)
    owned = fedlora.from_lists(*lists, owners=["a", "b"] * 24, test_share=0.5)
    assert len(owned.train.groups) == 24


@pytest.mark.defect("R14")
def test_records_are_plain_dicts(config):
    record = next(iter(fedlora.run(config())))
    told = record.to_dict()
    assert json.loads(json.dumps(told)) == told
    assert told["global"]["accuracy"] == record.global_metrics["accuracy"]
    assert told["clients"][0]["status"] == "accepted"


@pytest.mark.defect("R14")
def test_a_script_says_nothing_of_other_libraries(config, tmp_path):
    script = (
        "import fedlora, sys\n"
        "from transformers.utils import logging\n"
        "before = logging.get_verbosity(), logging.is_progress_bar_enabled()\n"
        f"run = fedlora.run({str(config(method={'name': 'full'}))!r}, out={str(tmp_path / 'out')!r})\n"
        "list(run)\n"
        "assert before == (logging.get_verbosity(), logging.is_progress_bar_enabled())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.defect("R15")
def test_the_package_says_its_version_and_is_typed():
    for words in ((sys.executable, "-m", "fedlora", "--version"), (sys.executable, "-m", "fedlora.cli", "--version")):
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == f"fedlora {fedlora.__version__}"
    assert (Path(fedlora.__file__).parent / "py.typed").is_file()


def test_a_run_without_its_data_says_so(lists, sections, tmp_path, command):
    """Its config alone cannot make it again, and does not claim to."""
    list(fedlora.run(sections, fedlora.from_lists(*lists), out=tmp_path / "out"))
    page = (tmp_path / "out" / "report.html").read_text()
    assert "run the Python script that handed over the data" in page
    code, _, err = command("run", tmp_path / "out" / "config.toml", "--out", tmp_path / "again")
    assert code == 2
    assert "the examples were handed over in Python" in err
    more = fedlora.run(sections, fedlora.from_lists(*lists), out=tmp_path / "out", resume=True, rounds=3)
    assert [record.round for record in more] == [3]
    assert list(more.history.index) == [1, 2, 3]
