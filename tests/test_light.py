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
    done = without(ABSENT, ROOT / "benchmarks" / "gpu.py", tmp_path / "out.json", "cpu", "small")
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "out.json").read_text())
    assert told["loss_difference_float32"] < 1e-4
    assert set(told["cohort"]) == {"30", "8", "4", "1"}


@pytest.mark.parametrize("package", ABSENT.split(",")[:6])
def test_the_absence_is_real(tmp_path, package):
    (tmp_path / "script.py").write_text(f"import {package}\n")
    done = without(package, tmp_path / "script.py")
    assert f"ModuleNotFoundError: No module named '{package}'" in done.stderr
