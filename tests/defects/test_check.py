"""`fedlora check` on methods that somebody is still writing: the right diagnosis, once, with the line."""

import pytest

HEAD = """
from dataclasses import dataclass, replace
from typing import ClassVar
from fedlora.methods.base import Method, State

"""
CLASS = HEAD + '@dataclass(frozen=True)\nclass Mine(Method):\n    name: ClassVar[str] = "mine"\n'
CRASH = """
    def advance(self, state, total, round):
        return total.average("input")  # here

    def aggregate(self, state, updates, round):
        return list(updates)[0].average()  # here too
"""
NOTHING = """
    def advance(self, state, total, round):
        pass

    def aggregate(self, state, updates, round):
        pass
"""
DOUBLE = """
    def advance(self, state, total, round):
        return state

    def aggregate(self, state, updates, round):
        inputs = {name: tensor.double() for name, tensor in state.adapter.input.items()}
        return replace(state, adapter=replace(state.adapter, input=inputs))
"""
NAN = DOUBLE.replace("tensor.double()", "tensor / 0 * 0")
CLIENT = """
    def advance(self, state, total, round):
        return state

    def aggregate(self, state, updates, round):
        list(updates)
        return state

    def upload(self, start, trained, kept, round):
        return trained.adapterr, {}  # here
"""
SIDES = """
    lr_a: float = 1.0
    lr_b: float = 1.0

    def advance(self, state, total, round):
        return self.moved(state)

    def aggregate(self, state, updates, round):
        list(updates)
        return self.moved(state)

    def moved(self, state):
        adapter = state.adapter
        for side in ("input", "output"):
            rate = self.lr_a if side == "A" else self.lr_b
            adapter = adapter.with_side(side, {name: tensor + rate for name, tensor in adapter.side(side).items()})
        return replace(state, adapter=adapter)
"""


@pytest.fixture
def checked(fedlora, tmp_path):
    """Writes a file and checks a class of it: the file, and exit code, stdout, stderr of the command."""

    def check(text, *words):
        file = tmp_path / "mine.py"
        file.write_text(text)
        return file, *fedlora("check", f"{file}:Mine", "--examples", "2", *words)

    return check


def line_of(file, mark):
    return 1 + next(n for n, line in enumerate(file.read_text().splitlines()) if line.endswith(mark))


@pytest.mark.defect("R3")
def test_a_crash_is_told_once_with_its_line(checked):
    file, code, out, err = checked(CLASS + CRASH)
    assert code == 2
    assert "broken" not in out
    assert err.count("\n") == 1
    assert f"{file}:{line_of(file, '# here too')}" in err
    assert "has no attribute 'average'" in err


@pytest.mark.defect("R3")
def test_a_crash_at_a_client_is_told_with_its_line(checked):
    file, code, out, err = checked(CLASS + CLIENT)
    assert code == 2
    assert "broken" not in out
    assert f"{file}:{line_of(file, '# here')}" in err
    assert "did you mean 'adapter'?" in err


@pytest.mark.defect("R3")
def test_a_result_that_is_nothing_is_told_as_that(checked):
    file, code, _, err = checked(CLASS + NOTHING)
    assert code == 2
    assert err.count("\n") == 1
    assert f"{file}:" in err
    assert "returned None, expected State" in err


@pytest.mark.defect("R3")
def test_a_forgotten_cast_names_the_module(checked):
    _, code, _, err = checked(CLASS + DOUBLE)
    assert code == 2
    assert "float64 at module0 (input side), cast to float32" in err


@pytest.mark.defect("R4")
def test_numbers_that_are_not_finite_are_told_as_that(checked):
    _, code, _, err = checked(CLASS + NAN)
    assert code == 2
    assert "not finite at module0 (input side)" in err


@pytest.mark.defect("R4")
def test_a_missing_function_is_not_called_an_argument(checked):
    file, code, _, err = checked(CLASS)
    assert code == 2
    assert f"Method Mine ({file}) has no function advance(self, state, total, round)" in err


@pytest.mark.defect("R4")
def test_a_missing_name_is_told_in_one_sentence(checked):
    file, code, _, err = checked(HEAD + "@dataclass(frozen=True)\nclass Mine(Method):\n" + NOTHING)
    assert code == 2
    assert err.count("\n") == 1
    assert f'Method Mine ({file}) has no name: add `name: ClassVar[str] = "mine"`' in err


@pytest.mark.defect("R4")
def test_a_field_without_a_default_is_named(checked):
    _, code, _, err = checked(CLASS + "    keep: float\n" + NOTHING)
    assert code == 2
    assert "method.keep is not set, and Mine" in err


@pytest.mark.defect("R5")
def test_a_field_that_changes_nothing_is_warned_of(checked):
    _, code, out, err = checked(CLASS + SIDES)
    assert "warning: method.lr_a changes nothing in 2 drawn worlds" in out + err
    assert "lr_b changes nothing" not in out + err
    assert code in (0, 1)


@pytest.mark.defect("R5")
def test_check_takes_values_of_fields(checked, fedlora):
    _, code, out, err = checked(CLASS + SIDES, "--set", "lr_a=0.5", "--set", "lr_b=2.0")
    assert code in (0, 1)
    assert "warning" not in out + err
    code, _, err = fedlora("check", "replicate", "--set", "promot=0.5")
    assert code == 2
    assert "method.promot: did you mean 'promote'?" in err
    code, _, err = fedlora("check", "replicate", "--set", "promote=2")
    assert code == 2
    assert "method.promote is 2; it must be at least 0 and at most 1" in err
