"""`fedlora init` on tables as people have them."""

import csv
import tomllib
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from fedlora.training.generated.requests import generated_dataset


def write(path, header, rows, delimiter=","):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def requests(count):
    """(text, label, the part of the label that names the thing)"""
    data = generated_dataset(count, 1)
    names = [data.labels[label] for label in data.train.labels]
    return [(text, name, name.partition("_")[2]) for text, name in zip(data.train.texts, names, strict=True)]


def started(fedlora, data, *words):
    out = data.with_suffix(".toml")
    code, said, err = fedlora("init", data, "--out", out, *words)
    assert (code, err) == (0, "")
    return tomllib.loads(out.read_text()), out.read_text(), said


@pytest.mark.defect("R11")
def test_a_table_with_semicolons_is_read(fedlora, tmp_path):
    rows = [(text, label, f"Filiale {n % 3}", n) for n, (text, label, _) in enumerate(requests(300))]
    data = write(tmp_path / "de.csv", ["Äußerung", "Absicht", "Besitzer", "id"], rows, delimiter=";")
    config, _, said = started(fedlora, data)
    assert (config["data"]["text"], config["data"]["label"]) == ("Äußerung", "Absicht")
    assert "--label" in said


@pytest.mark.defect("R11")
def test_what_groups_the_labels_is_not_taken_for_the_label(fedlora, tmp_path):
    """As in HWU64, where each of 18 scenarios, the owners, has intents of its own, and its words tell it better."""
    rows = [(text, part, label) for text, label, part in requests(100)]
    data = write(tmp_path / "hwu.csv", ["utterance", "scenario", "purpose"], rows)
    config, text, _ = started(fedlora, data)
    assert config["data"]["label"] == "purpose"
    assert "The column 'scenario' (5 values) may say whose an example is" in text


@pytest.mark.defect("R11")
def test_a_column_called_owner_is_not_taken_for_the_label(fedlora, tmp_path):
    rows = [(text, part, label.partition("_")[0]) for text, label, part in requests(300)]
    data = write(tmp_path / "owned.csv", ["utterance", "owner", "wish"], rows)
    assert started(fedlora, data)[0]["data"]["label"] == "wish"
    config, _, _ = started(
        fedlora, write(tmp_path / "again.csv", ["utterance", "owner", "wish"], rows), "--owner", "owner"
    )
    assert config["split"]["column"] == "owner"


@pytest.mark.defect("R11")
def test_the_comments_name_every_choice(fedlora, tmp_path):
    from fedlora import Config

    rows = [(text, label) for text, label, _ in requests(100)]
    _, text, _ = started(fedlora, write(tmp_path / "data.csv", ["text", "label"], rows))
    for choices, key in ((("adamw", "sgd"), "optimizer"), (("iid", "dirichlet", "natural"), "kind")):
        above = text.partition(f"\n{key} =")[0] if f"\n{key} =" in text else text.partition(f"\n# {key} =")[0]
        comment = above.rpartition(" =")[2]
        assert all(choice in comment for choice in choices), key
    for section in get_type_hints(Config).values():
        for name, annotation in get_type_hints(section).items() if isinstance(section, type) else ():
            for choice in get_args(annotation) if get_origin(annotation) is Literal else ():
                assert str(choice) in text, f"{section.__name__}.{name} does not name {choice}"
