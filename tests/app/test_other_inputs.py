"""Resume and compare do not go on over other data, another base, tokenizer or version."""

import json
import re
import shutil

import pytest
from safetensors.torch import load_file, save_file

from fedlora.app.config.schema import read_config
from fedlora.app.run.run import run
from fedlora.errors import RunFolderError
from fedlora.training.data.labelled import from_lists


def tree(folder):
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "timings.jsonl"]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def rewrite(path, change):
    path.write_text("".join(json.dumps(row) + "\n" for row in change(rows(path))))


def edit_json(path, change):
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))


def with_column(own, column, values):
    return [{**row, column: value} for row, value in zip(own, values, strict=True)]


def reverse_texts(place):
    def change(own):
        return with_column(own, "text", [row["text"] for row in reversed(own)])

    rewrite(place / "data" / "train.jsonl", change)


def shuffle_labels(place):
    def change(own):
        labels = [row["label"] for row in own]
        return with_column(own, "label", labels[7:] + labels[:7])

    rewrite(place / "data" / "train.jsonl", change)


def move_one_word_boundary(place):
    """The same words in the same order, cut into examples at another place."""

    def change(own):
        first, second = own[0]["text"].split(), own[1]["text"].split()
        return [{**own[0], "text": " ".join([*first, second[0]])}, {**own[1], "text": " ".join(second[1:])}, *own[2:]]

    rewrite(place / "data" / "train.jsonl", change)


def leave_out_a_test_example(place):
    rewrite(place / "data" / "test.jsonl", lambda own: own[1:])


def rename_a_label(place):
    for part in ("train", "test"):
        rewrite(
            place / "data" / f"{part}.jsonl",
            lambda own: with_column(own, "label", [row["label"].replace("share_limit", "share_limits") for row in own]),
        )


def swap_owners(place):
    def change(own):
        return with_column(own, "ward", [{"ward/0": "ward/1", "ward/1": "ward/0"}.get(w, w) for w in wards(own)])

    def wards(own):
        return [row["ward"] for row in own]

    rewrite(place / "data" / "train.jsonl", change)


def change_a_weight(place):
    path = place / "base" / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in sorted(tensors) if name.endswith("query.weight"))
    tensors[name][0, 0] += 1e-3
    save_file(tensors, path, metadata={"format": "pt"})


def swap_two_tokens(place):
    def change(told):
        words = told["model"]["vocab"]
        words["card"], words["address"] = words["address"], words["card"]

    edit_json(place / "base" / "tokenizer.json", change)


CHANGES = {
    reverse_texts: r"other training examples \(data\.path\)",
    shuffle_labels: r"other training examples \(data\.path\)",
    move_one_word_boundary: r"other training examples \(data\.path\)",
    leave_out_a_test_example: r"other test examples \(data\.path",
    rename_a_label: r"other names of labels",
    swap_owners: r"other owners of the examples \(split\)",
    change_a_weight: r"other weights of the base \(model\.base\)",
    swap_two_tokens: r"another tokenizer \(model\.base\)",
}


@pytest.fixture
def place(small, tmp_path):
    """A copy of data and base that a test may change."""
    shutil.copytree(small, tmp_path / "place")
    return tmp_path / "place"


@pytest.fixture
def natural(config, place):
    """A run on the copy, whose clients are named by a column."""

    def write(**sections):
        own = {"data": {"path": str(place / "data")}, "model": {"base": str(place / "base")}}
        split = {"split": {"kind": "natural", "column": "ward"}}
        return config(**{**own, **split, **sections})

    return write


def stop_after_one_round(folder):
    lines = (folder / "rounds.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "rounds.jsonl").write_bytes(lines[0])
    (folder / "summary.json").unlink()


def one_sentence(code, err):
    """One line; a bar that another library may have drawn before it is none of ours."""
    said = err.rpartition("it/s]")[2].lstrip()
    return code == 2 and said.startswith("fedlora: ") and said.count("\n") == 1


def refusals(place, words, fedlora):
    """Each change of the place, undone again, with what the command said to it."""
    old = place.with_name("old")
    shutil.copytree(place, old)
    for change, expected in CHANGES.items():
        change(place)
        code, _, err = fedlora(*words)
        assert one_sentence(code, err), (change.__name__, err)
        yield expected, err
        shutil.rmtree(place)
        shutil.copytree(old, place)


def test_resume_refuses_other_inputs_and_goes_on_with_the_old_ones(natural, place, fedlora, tmp_path):
    path, out = natural(), tmp_path / "out"
    assert fedlora("run", path, "--out", out)[0] == 0
    whole = tree(out)
    stop_after_one_round(out)
    before = tree(out)
    words = ("run", path, "--out", out, "--resume")
    for expected, said in refusals(place, words, fedlora):
        assert re.search(f"{out} was started with {expected}", said), said
        assert tree(out) == before
    assert fedlora(*words)[0] == 0
    assert tree(out) == whole


def test_compare_refuses_a_finished_run_of_other_inputs(natural, place, fedlora, tmp_path):
    path, out = natural(), tmp_path / "out"
    assert fedlora("compare", path, "--methods", "fedit", "--out", out)[0] == 0
    before = tree(out)
    words = ("compare", path, "--methods", "local,fedit", "--out", out)
    for expected, said in refusals(place, words, fedlora):
        assert re.search(f"{out / 'fedit' / 'seed-0'} was started with {expected}", said), said
        assert tree(out) == before  # nothing ran


def test_compare_does_not_put_few_examples_beside_many(config, place, fedlora, tmp_path):
    labels = sorted({row["label"] for row in rows(place / "data" / "train.jsonl")})
    path, out = config(data={"path": str(place / "data"), "labels": labels}), tmp_path / "out"
    assert fedlora("compare", path, "--methods", "fedit", "--out", out)[0] == 0
    table = (out / "table.csv").read_bytes()
    rewrite(place / "data" / "train.jsonl", lambda own: own[:48])
    code, _, err = fedlora("compare", path, "--methods", "fedit,local", "--out", out)
    assert one_sentence(code, err), err
    assert "was started with other training examples" in err
    assert not (out / "local").exists()
    assert (out / "table.csv").read_bytes() == table


def test_compare_looks_at_every_seed_before_anything_runs(config, place, fedlora, tmp_path):
    path, out = config(data={"path": str(place / "data")}, run={"rounds": 1}), tmp_path / "out"
    assert fedlora("compare", path, "--methods", "fedit", "--seeds", "2", "--out", out)[0] == 0
    shutil.rmtree(out / "fedit" / "seed-0")
    reverse_texts(place)
    code, _, err = fedlora("compare", path, "--methods", "fedit", "--seeds", "2", "--out", out)
    assert one_sentence(code, err), err
    assert f"{out / 'fedit' / 'seed-1'} was started with other training examples" in err
    assert not (out / "fedit" / "seed-0").exists()


def test_trials_of_learning_rates_count_for_their_data_only(config, place, fedlora, tmp_path):
    path = config(data={"path": str(place / "data")}, split={"validation": 0.2}, run={"rounds": 1})
    words = ("compare", path, "--methods", "fedit", "--rates", "1e-3", "--rate-rounds", "1", "--out", tmp_path / "out")
    assert fedlora(*words)[0] == 0
    shuffle_labels(place)
    code, _, err = fedlora(*words)
    assert one_sentence(code, err), err
    assert f"{tmp_path / 'out' / 'rates' / 'fedit' / 'lr-0.001'} was started with other training examples" in err


@pytest.fixture
def stopped(config, fedlora, tmp_path):
    """A config and the folder of its run, stopped after a round."""
    path = config()
    assert fedlora("run", path, "--out", tmp_path / "out")[0] == 0
    stop_after_one_round(tmp_path / "out")
    return path, tmp_path / "out"


def test_another_version_is_refused_by_name(stopped, fedlora):
    path, out = stopped
    edit_json(out / "environment.json", lambda told: told["packages"].update(fedlora="0.0.9"))
    code, _, err = fedlora("run", path, "--out", out, "--resume")
    assert one_sentence(code, err), err
    assert "was started with another version of fedlora: 0.0.9, and now it is 0." in err


def test_versions_of_other_packages_are_for_the_record(stopped, fedlora):
    path, out = stopped
    edit_json(out / "environment.json", lambda told: told["packages"].update(numpy="1.0"))
    assert fedlora("run", path, "--out", out, "--resume")[0] == 0


def test_a_folder_that_does_not_say_is_refused(stopped, fedlora):
    path, out = stopped
    edit_json(out / "split.json", lambda told: told.pop("digests"))
    code, _, err = fedlora("run", path, "--out", out, "--resume")
    assert one_sentence(code, err), err
    assert "split.json lacks digests.train" in err
    (out / "split.json").unlink()
    assert "split.json lacks labels" in fedlora("run", path, "--out", out, "--resume")[2]
    (out / "split.json").write_text("{")
    assert "split.json is damaged" in fedlora("run", path, "--out", out, "--resume")[2]


def test_a_kill_before_the_first_round_leaves_files_to_be_written(stopped, fedlora):
    path, out = stopped
    (out / "split.json").unlink()
    for own in ("rounds.jsonl", "clients.jsonl", "timings.jsonl"):
        (out / own).unlink()
    shutil.rmtree(out / "checkpoints")
    assert fedlora("run", path, "--out", out, "--resume")[0] == 0
    assert json.loads((out / "split.json").read_text())["digests"]


def test_a_run_from_an_adapter_goes_on_from_that_adapter_only(config, fedlora, tmp_path):
    assert fedlora("run", config(), "--out", tmp_path / "first")[0] == 0
    adapter = tmp_path / "first" / "adapter"
    path, out = config(adapter={"start": str(adapter), "scale": 3.0}), tmp_path / "out"
    assert fedlora("run", path, "--out", out)[0] == 0
    stop_after_one_round(out)
    file = adapter / "adapter_model.safetensors"
    save_file({name: 2 * tensor for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    code, _, err = fedlora("run", path, "--out", out, "--resume")
    assert one_sentence(code, err), err
    assert "was started with another adapter to start from (adapter.start)" in err


def test_a_checkpoints_own_head_counts(config, place, fedlora, tmp_path):
    """A head that is drawn from the seed is named by the seed; one that comes with the base, by its weights."""
    from transformers import AutoModelForSequenceClassification

    base = place / "base"
    AutoModelForSequenceClassification.from_pretrained(base, num_labels=25).save_pretrained(base)
    path, out = config(model={"base": str(base)}), tmp_path / "out"
    assert fedlora("run", path, "--out", out)[0] == 0
    stop_after_one_round(out)
    tensors = load_file(base / "model.safetensors")
    tensors["classifier.weight"][0, 0] += 1.0
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    code, _, err = fedlora("run", path, "--out", out, "--resume")
    assert one_sentence(code, err), err
    assert "was started with another head of the base (model.base)" in err


def test_the_callers_lists_are_compared_too(config, small, tmp_path):
    own = {part: rows(small / "data" / f"{part}.jsonl") for part in ("train", "test")}
    texts, labels = ({part: [row[key] for row in own[part]] for part in own} for key in ("text", "label"))

    def dataset(turned=0):
        turn = labels["train"][turned:] + labels["train"][:turned]
        return from_lists(texts["train"], turn, texts["test"], labels["test"])

    settings = read_config(config())
    for _ in run(settings, dataset(), out=tmp_path / "out"):
        break
    with pytest.raises(RunFolderError, match="was started with other training examples"):
        run(settings, dataset(turned=7), out=tmp_path / "out", resume=True)
    assert len(list(run(settings, dataset(), out=tmp_path / "out", resume=True))) == 1
