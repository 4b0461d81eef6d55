"""Whoever trains on a rented card installs torch and transformers: nothing below the application needs more."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ABSENT = "pydantic,pydantic_core,tomli_w,datasets,flwr,flwr_datasets,typer,rich,jinja2,matplotlib"


def without(packages, *words):
    """Run a script of ours where some packages are absent."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    words = [sys.executable, str(ROOT / "tests" / "without.py"), packages, *map(str, words)]
    return subprocess.run(words, capture_output=True, text=True, check=False, env=env, cwd=ROOT)


def test_a_round_needs_torch_and_transformers_alone():
    done = without(ABSENT, ROOT / "tests" / "one_round.py")
    assert done.returncode == 0, done.stderr
    assert "scored on 24 examples" in done.stdout


def test_the_benchmark_on_a_card_needs_no_application(tmp_path):
    """Every part of it runs to its end; what only a card has is left out here."""
    done = without(ABSENT, ROOT / "benchmarks" / "gpu.py", tmp_path / "out.json", "cpu", "small")
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "out.json").read_text())
    assert (told["failed"], told["left_out"]) == ({}, [])
    assert all(0.0 <= difference < 1e-5 for difference in told["loss_difference_float32"].values())
    for name in ("RoBERTa-base", "LLaMA 1B"):
        assert {way for way, steps in told[name]["cohort"].items() if "3" in steps} == {"masked", "grouped"}
        assert set(told[name]) == {"cohort", "peft", "attention_ms", "factors_ms"}
        assert {way for way, taken in told[name]["factors_ms"].items() if taken > 0} == {"masked", "grouped"}


def test_the_benchmark_sees_a_wrong_product(tmp_path):
    """The planted fault: the first client's last token meets the second one's factors."""
    script = tmp_path / "faulty.py"
    script.write_text(
        "import sys; sys.path.insert(0, 'benchmarks')\n"
        "import gpu, gpu_models\n"
        "from fedlora.training.forward import grouped\n"
        "usual = grouped._ends\n"
        "grouped._ends = lambda order, rows: (ends := usual(order, rows).clone()).index_add_("
        "0, gpu.torch.tensor([0]), gpu.torch.tensor([-1], dtype=ends.dtype))\n"
        "print(gpu.agreement(gpu_models.roberta(True), 'cpu', 'grouped'))\n"
    )
    done = without(ABSENT, script)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) > 1e-4


def test_the_tests_for_a_card_can_be_collected_there():
    """With the command of docs/gpu.md, which leaves this folder's conftest out, and every test has the mark."""
    words = ["-c", "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"]
    options = ["tests/gpu", "--noconftest", "-p", "no:cacheprovider", "-W", "ignore", "-m", "gpu", "--collect-only"]
    blocked = "import sys; sys.path.insert(0, 'tests'); import without; without.hide(sys.argv.pop(1).split(','));"
    words[1] = blocked + words[1]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, *words, ABSENT, *options], capture_output=True, text=True, check=False, env=env, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "deselected" not in done.stdout
    assert "test_on_a_card.py" in done.stdout


@pytest.mark.parametrize("package", ABSENT.split(",")[:6])
def test_the_absence_is_real(tmp_path, package):
    (tmp_path / "script.py").write_text(f"import {package}\n")
    done = without(package, tmp_path / "script.py")
    assert f"ModuleNotFoundError: No module named '{package}'" in done.stderr
