"""Reading labelled texts, in every format and with every mistake."""

import csv
import gzip
import io
import json

import numpy
import pyarrow
import pytest
from pyarrow import parquet

from fedlora.errors import DataError
from fedlora.training.data.examples import take_some
from fedlora.training.data.labelled import Columns, from_files, from_hub, from_rows
from fedlora.training.data.tables import read_rows
from fedlora.training.encoding.tokens import tokenise
from fedlora.training.generated.encoder import generated_base
from fedlora.training.generated.requests import generated_dataset

ROWS = [{"text": f"text {n}, with a comma", "label": "ab"[n % 2], "who": f"site{n % 3}"} for n in range(10)]


def write(path, rows):
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "jsonl":
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    elif kind == "json":
        data = json.dumps(rows).encode()
    elif kind == "parquet":
        buffer = io.BytesIO()
        parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
        data = buffer.getvalue()
    else:
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, rows[0], delimiter="\t" if kind == "tsv" else ",")
        table.writeheader()
        table.writerows(rows)
        data = text.getvalue().encode("utf-8-sig")  # as spreadsheets write it
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet"])
@pytest.mark.parametrize("packed", ["", ".gz"])
def test_every_format_gives_the_same_rows(tmp_path, kind, packed):
    path = tmp_path / f"data.{kind}{packed}"
    write(path, ROWS)
    assert list(read_rows(path)) == ROWS


def test_a_spreadsheet_with_semicolons(tmp_path):
    """As spreadsheets write it where the comma is the decimal sign; a comma within a text is no sign of another."""
    (tmp_path / "data.csv").write_text('text;label\nwo ist meine Karte, bitte;suchen\n"a;b";fragen\n')
    expected = [("wo ist meine Karte, bitte", "suchen"), ("a;b", "fragen")]
    assert [(row["text"], row["label"]) for row in read_rows(tmp_path / "data.csv")] == expected


def test_a_folder_has_two_parts(tmp_path):
    write(tmp_path / "train.jsonl", ROWS)
    write(tmp_path / "test.csv.gz", ROWS[:4])
    data = from_files(tmp_path, Columns(group="who"))
    assert (len(data.train), len(data.test), data.labels) == (10, 4, ("a", "b"))
    assert data.train.groups[:3] == ("site0", "site1", "site2")
    assert data.train.labels.tolist() == [n % 2 for n in range(10)]


def test_a_single_file_is_cut(tmp_path):
    write(tmp_path / "all.jsonl", ROWS)
    one, two = (from_files(tmp_path / "all.jsonl", Columns(), test_share=0.3, seed=1) for _ in range(2))
    assert (len(one.train), len(one.test)) == (7, 3)
    assert one.train.texts == two.train.texts
    assert set(one.train.texts) | set(one.test.texts) == {row["text"] for row in ROWS}


def test_very_long_texts_and_odd_characters(tmp_path):
    odd = [{"text": "\u2028\x00 \udcff".encode("utf-8", "replace").decode() * 50000, "label": x} for x in "ab"]
    write(tmp_path / "all.jsonl", odd)
    assert list(read_rows(tmp_path / "all.jsonl")) == odd


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda rows: [], "has no examples"),
        (lambda rows: [{**row, "label": "a"} for row in rows], "single label, 'a'"),
        (
            lambda rows: [{"body": row["text"], "label": row["label"]} for row in rows],
            "no column 'text'; it has 'body', 'label'",
        ),
        (lambda rows: [*rows[:9], {"text": None, "label": "a"}], "row 10 of the train part has no column 'text'"),
    ],
    ids=["empty", "one label", "no column", "no value"],
)
def test_what_is_wrong_is_said(change, sentence):
    with pytest.raises(DataError, match=sentence):
        from_rows(change(ROWS), ROWS, Columns(), origin="mine")


def test_a_test_label_that_training_lacks():
    with pytest.raises(DataError, match=r"test part has the label 'z', which is not among the 2"):
        from_rows(ROWS, [*ROWS, {"text": "t", "label": "z"}], Columns(), origin="mine")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("data.xls", b"", "unknown kind of file"),
        ("data.jsonl", b'{"a": 1}\n{"a"\n', "line 2 is no JSON"),
        ("data.jsonl", b"[1]\n", "one JSON object"),
        ("data.csv.gz", b"not gzip", "cannot be read as csv"),
        ("data.parquet", b"not parquet", "cannot be read as parquet"),
        ("data.jsonl", b"\xff\xfe", "cannot be read as jsonl"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        read_rows(tmp_path / name)


def test_nothing_there(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        from_files(tmp_path / "nowhere", Columns())
    with pytest.raises(DataError, match="has no train file"):
        from_files(tmp_path, Columns())


def test_a_hub_that_cannot_be_reached(offline):
    with pytest.raises(DataError, match="could not be loaded from the hub"):
        from_hub("nobody/nothing", Columns())


def test_some_examples_are_drawn_by_the_seed():
    data = generated_dataset(200, 50)
    one, two, other = (take_some(data, 40, 10, seed) for seed in (0, 0, 1))
    assert (len(one.train), len(one.test)) == (40, 10)
    assert one.train.texts == two.train.texts != other.train.texts
    assert take_some(data, None, 9999, 0).train.texts == data.train.texts


def test_tokens_are_those_of_the_tokenizer():
    from tiny_models import tokenizer

    data = from_rows([{"text": "w1 w2 w3", "label": "a"}, {"text": "w4", "label": "b"}], ROWS, Columns(), "mine")
    tokens = tokenise(data.train, tokenizer(), max_length=4)
    assert [tokens[0].tolist(), tokens[1].tolist()] == tokenizer()(["w1 w2 w3", "w4"], truncation=True, max_length=4)[
        "input_ids"
    ]
    assert tokens.lengths.tolist() == [4, 3]


def test_the_generated_task_says_so_and_repeats():
    one, two = generated_dataset(100, 20), generated_dataset(100, 20)
    assert one.origin == "generated"
    assert one.train.texts == two.train.texts
    assert len(one.labels) == 25
    assert numpy.bincount(one.train.labels).tolist() == [4] * 25
    assert not set(one.train.texts) & set(one.test.texts)


def test_the_generated_base_is_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    one = generated_base(width=16, layers=1, steps=3)
    written = (one / "model.safetensors").stat().st_mtime_ns
    assert generated_base(width=16, layers=1, steps=3) == one
    assert (one / "model.safetensors").stat().st_mtime_ns == written
    assert [own.name for own in (tmp_path / "fedlora").iterdir()] == [one.name]


def test_a_rare_label_of_a_single_file_may_fall_into_the_test_part(tmp_path):
    rows = [{"text": f"text {number}", "label": "often" if number else "once"} for number in range(20)]
    (tmp_path / "one.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    parts = [from_files(tmp_path / "one.jsonl", Columns(), 0.5, seed) for seed in range(8)]
    assert {part.labels for part in parts} == {("often", "once")}
    assert {int((part.train.labels == part.labels.index("once")).sum()) for part in parts} == {0, 1}
