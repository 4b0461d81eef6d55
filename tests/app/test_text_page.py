"""What a run of language modelling shows: kinds and no labels, no head, a loss of which less is better."""

import json
import re

import pytest
import tomli_w
from tests.text_data import text_tree, write_data, write_decoder


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    write_data(folder / "data", 36, 12)
    write_decoder(folder / "base")
    return folder


@pytest.fixture
def ran(ground, tmp_path, fedlora):
    """The folder of a run and what it said."""

    def run(*words, **sections):
        (tmp_path / "config.toml").write_text(tomli_w.dumps(text_tree(ground, **sections)))
        code, out, err = fedlora("run", tmp_path / "config.toml", *words)
        assert code == 0, err
        return tmp_path / "run", out

    return run


def shown(folder):
    """The page's text without its config and its script, whose keys are those of both tasks."""
    page = (folder / "report.html").read_text().partition("<h2>Configs</h2>")[0]
    return re.sub(r"<style.*?</style>", "", page, flags=re.S)


def test_kinds_stand_where_labels_would(ran, tmp_path):
    folder, out = ran("--out", tmp_path / "run", split={"kind": "dirichlet", "alpha": 0.3})
    assert "4 kinds, dirichlet split" in out
    assert "done: loss " in out
    page = shown(folder)
    assert "4 kinds, 3 clients" in page
    assert "Who owns which kinds" in page
    assert "loss a token, nats" in page
    assert "Lower is better: loss, perplexity, bits_per_byte." in page
    for word in ("accuracy, %", "labels", "Head:", "chance"):
        assert word not in page.replace("token accuracy, %", ""), word
    for word in ("label", "head "):
        assert word not in out.partition("done:")[0], word
    split, summary = (json.loads((folder / name).read_text()) for name in ("split.json", "summary.json"))
    assert split["kinds"] == ["blue", "green", "red", "white"]
    assert sum(sum(client["labels"]) for client in split["clients"].values()) == 36
    assert not {"labels", "head"} & summary.keys()


def test_without_kinds_none_are_told(ran, tmp_path):
    folder, out = ran("--out", tmp_path / "run", data={"label": "nothing"})
    assert "training examples, iid split" in out
    page = shown(folder)
    assert "Who owns which" not in page
    assert "3 clients with 12 to 12 training examples" in page


def test_a_dry_run_tells_bytes_and_no_losses(ran, tmp_path):
    _, out = ran("--dry-run")
    assert re.search(r"steps +18 optimiser steps", out), out
    assert "bytes up" in out
    assert "nan" not in out


def test_clients_are_chosen_by_the_lower_loss(ground, tmp_path, fedlora):
    """Rates are tried on the validation part: one that learns nothing must not win."""
    config = tmp_path / "config.toml"
    config.write_text(tomli_w.dumps(text_tree(ground, split={"validation": 0.2})))
    words = ("--methods", "fedit", "--rates", "1e-6,2e-2", "--rate-rounds", "2", "--out", tmp_path / "all")
    code, out, err = fedlora("compare", config, *words)
    assert code == 0, err
    assert "lr = 0.02" in (tmp_path / "all" / "fedit" / "seed-0" / "config.toml").read_text(), out
    # What the base knew without training stands beside it, and tries no rates.
    table = json.loads((tmp_path / "all" / "base" / "seed-0" / "summary.json").read_text())
    assert (table["bytes_up"], table["steps"]) == (0, 0)
    trained = json.loads((tmp_path / "all" / "fedit" / "seed-0" / "summary.json").read_text())
    assert trained["global"]["loss"] < table["global"]["loss"]
    assert sorted(path.name for path in (tmp_path / "all" / "rates").iterdir()) == ["fedit"]
    assert re.search(r"\bbase\b", out)


def test_the_base_is_a_row_of_comparisons_of_generation_alone(ground, tmp_path):
    from fedlora.app.compare.compare import entries
    from fedlora.app.config.schema import make_config

    text = make_config(text_tree(ground))
    assert [entry.label for entry in entries(text, ["fedit"], 1, tmp_path)] == ["fedit", "base"]
    assert [entry.label for entry in entries(text, ["base", "ffa"], 1, tmp_path)] == ["base", "ffa"]
    assert [entry.label for entry in entries(make_config({}), ["fedit"], 1, tmp_path)] == ["fedit"]
