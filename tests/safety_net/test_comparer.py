"""The comparer can fail: one bit of a tensor, a name that is gone, a count, a score; and what is explained passes.

The recordings of these tests are made here, with the recorder's own `Recorder`.
"""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


@pytest.fixture
def recording(monkeypatch):
    """One case with an entry of every kind."""
    monkeypatch.syspath_prepend(str(HERE))
    from capture import Recorder

    def make(tensor):
        out = Recorder()
        place = out.under("round1", "c0", "up")
        place.tree({"A": {"query": tensor}, "head": {"bias": torch.zeros(2)}})
        place.count("tensor_bytes", 24)
        out.score("round1/record/loss", 1.5)
        out.encoded("round1/record/encoded_bytes/up", 300)
        out.text("round1/record/c0/status", "accepted")
        return {"method/fedit": out.entries}

    return make


@pytest.fixture
def compare(tmp_path):
    """Runs the script on two recordings; returns exit code and what it said."""

    def call(before, after, names="", explained=""):
        texts = {"b.json": json.dumps(before), "a.json": json.dumps(after), "n.toml": names, "e.toml": explained}
        for name, text in texts.items():
            (tmp_path / name).write_text(text)
        b, a, n, e = (str(tmp_path / name) for name in texts)
        line = [sys.executable, str(HERE / "compare.py"), b, a, "--names", n, "--explained", e]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    return call


def some():
    return torch.tensor([0.1, -2.0, 3.0, 4.0])


def one_bit_off():
    bits = some().view(torch.int32).clone()
    bits[2] ^= 1
    return bits.view(torch.float32)


def test_equal_recordings_are_equal(recording, compare):
    code, said = compare(recording(some()), recording(some()))
    assert code == 0, said
    assert "2 tensors compared, 0 unequal, 0 missing after, 0 missing before" in said
    assert "1 scores compared, 0 unequal" in said


def test_one_bit_of_one_tensor_is_found(recording, compare):
    assert torch.equal(some()[:2], one_bit_off()[:2])
    code, said = compare(recording(some()), recording(one_bit_off()))
    assert code == 1
    assert "unequal tensor: method/fedit: round1/c0/up/A/query: float32[4], other bytes" in said
    assert "2 tensors compared, 1 unequal" in said


def test_the_sign_of_a_zero_is_a_bit(recording, compare):
    code, _ = compare(recording(torch.zeros(4)), recording(-torch.zeros(4)))
    assert code == 1


def test_a_wider_type_and_another_shape_are_found(recording, compare):
    for other in (some().double(), some().reshape(2, 2)):
        code, said = compare(recording(some()), recording(other))
        assert code == 1
        assert "before" in said
    assert "(same bytes)" in said


def test_what_is_missing_on_either_side_is_found(recording, compare):
    whole, less = recording(some()), recording(some())
    del less["method/fedit"]["round1/c0/up/A/query"]
    assert compare(whole, less)[0] == 1
    assert "1 missing after" in compare(whole, less)[1]
    assert compare(less, whole)[0] == 1
    assert "1 missing before" in compare(less, whole)[1]


def test_a_case_that_was_not_recorded_is_missing(recording, compare):
    more = recording(some()) | {"method/ffa": recording(some())["method/fedit"]}
    code, said = compare(more, recording(some()))
    assert code == 1
    assert "missing after tensor: method/ffa: round1/c0/up/A/query" in said


@pytest.mark.parametrize("name", ["round1/c0/up/tensor_bytes", "round1/record/encoded_bytes/up"])
def test_another_number_of_bytes_is_found(recording, compare, name):
    other = recording(some())
    other["method/fedit"][name][1] += 1
    assert compare(recording(some()), other)[0] == 1


def test_the_last_bit_of_a_score_is_found(recording, compare):
    other = recording(some())
    other["method/fedit"]["round1/record/loss"][1] = (1.5 + 2.0**-52).hex()
    code, said = compare(recording(some()), other)
    assert code == 1
    assert "1.5 before, 1.5000000000000002 after" in said


def test_names_go_through_the_map(recording, compare):
    after = recording(some())
    entries = after["method/fedit"]
    moved = {name.replace("/up/A/", "/update/A/"): entry for name, entry in entries.items()}
    rename = '[[rename]]\npattern = "^(round\\\\d+/[^/]+)/up/A/"\nreplacement = "\\\\1/update/A/"\n'
    assert compare(recording(some()), {"method/fedit": moved})[0] == 1
    code, said = compare(recording(some()), {"method/fedit": moved}, names=rename)
    assert code == 0, said
    elsewhere = rename + 'case = "method/ffa"\n'
    assert compare(recording(some()), {"method/fedit": moved}, names=elsewhere)[0] == 1


def test_a_map_that_makes_two_names_one_is_refused(recording, compare):
    rename = '[[rename]]\npattern = ".*/up/.*"\nreplacement = "same"\n'
    code, said = compare(recording(some()), recording(some()), names=rename)
    assert code == 2
    assert "to two old names" in said


EXPLAINED = """
[[explained]]
defect = "D1"
reason = "the head goes through the clip"
case = "method/.*"
name = "round\\\\d+/c0/up/A/.*"
"""


def test_what_is_explained_passes_and_is_counted_apart(recording, compare):
    code, said = compare(recording(some()), recording(one_bit_off()), explained=EXPLAINED)
    assert code == 0, said
    assert "explained by D1: 1 (the head goes through the clip)" in said
    assert "1 differences explained, 0 not" in said


def test_an_explanation_covers_no_more_than_it_says(recording, compare):
    other = recording(one_bit_off())
    other["method/fedit"]["round1/record/loss"][1] = (2.5).hex()
    assert compare(recording(some()), other, explained=EXPLAINED)[0] == 1
    gone = copy.deepcopy(recording(some()))
    del gone["method/fedit"]["round1/c0/up/A/query"]
    assert compare(recording(some()), gone, explained=EXPLAINED)[0] == 1  # `how` is unequal alone
    assert compare(recording(some()), gone, explained=EXPLAINED + 'how = ["missing after"]\n')[0] == 0
    only_counts = EXPLAINED + 'kinds = ["count"]\n'
    assert compare(recording(some()), recording(one_bit_off()), explained=only_counts)[0] == 1


def test_an_explanation_of_nothing_is_told(recording, compare):
    code, said = compare(recording(some()), recording(some()), explained=EXPLAINED)
    assert code == 0
    assert "<- explains nothing" in said


def test_wrong_input_is_a_sentence(recording, compare):
    for names, explained in (('[[renames]]\npattern = "a"\n', ""), ("", '[[explained]]\ndefect = "D1"\n')):
        code, said = compare(recording(some()), recording(some()), names, explained)
        assert code == 2
        assert said.startswith("compare.py: ")
    assert compare({}, recording(some()))[0] == 2


def test_a_name_is_recorded_once(recording, monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    from capture import Recorder

    out = Recorder()
    out.count("round1/rank", 2)
    with pytest.raises(KeyError, match="recorded twice"):
        out.under("round1").count("rank", 2)


def test_every_case_has_a_name_of_its_own(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    from case import BASES, EVENTS
    from cases import CASES, METHODS, SLOW

    names = [case["name"] for case in [*CASES, *SLOW]]
    assert len(set(names)) == len(names)
    assert {case["config"]["method"]["name"] for case in CASES} >= set(METHODS)
    assert all(case["config"]["model"]["base"] in BASES for case in CASES)
    assert all(event in EVENTS for case in CASES for event, _, _ in case["events"])
