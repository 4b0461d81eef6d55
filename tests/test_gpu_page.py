"""The page on GPUs: what a card has shown stands there, and where there was none, that nothing was run."""

import copy
import json
from pathlib import Path

import pytest

import blocks
import gpu_results

STEP = {"step_ms": 20.0, "examples_per_second": 24000.0, "tflops": 165.0, "peak_bytes": 3.5e9}
TOLD = {
    "small": False,
    "environment": {"device": "Card 9", "torch": "2.11.0", "transformers": "5.17.0", "peft": "0.19"},
    "failed": {},
    "left_out": [],
    "limits": {"flops": {"bfloat16": 660e12, "float32": 50e12}, "bytes_a_second": 4.3e12},
    "loss_difference_float32": {"masked": 2e-6, "grouped": 3e-6},
    "RoBERTa-base": {
        "cohort": {
            "masked": {"30": STEP},
            "grouped": {"30": {**STEP, "examples_per_second": 48000.0, "step_ms": 10.0}},
        },
        "peft": {"step_ms": 1000.0, "examples_per_second": 480.0, "tflops": 3.3},
        "attention_ms": {"varlen": 0.25, "padded": 0.5},
        "factors_ms": {"masked": 0.75, "grouped": 0.125},
        "kernels": {"grouped": {"launches": 1500, "waits": 1, "busy_ms": 9.5, "slowest": [["gemm|x", 72, 4.0]]}},
    },
}


@pytest.fixture
def written(tmp_path):
    def write(told):
        path = tmp_path / "gpu.json"
        path.write_text(json.dumps(told))
        return gpu_results.gpu_measured(path)

    return write


def test_without_a_result_the_page_says_that_nothing_was_run(tmp_path):
    assert gpu_results.gpu_measured(tmp_path / "gpu.json").startswith("**Not run yet**")


def test_a_result_is_shown(written):
    page = written(TOLD)
    assert "Measured on Card 9 with torch 2.11.0" in page
    assert "products 660 TFLOP/s in bfloat16, 50 TFLOP/s in float32; copies 4.30 TB/s" in page
    assert "masked 2.0e-06, grouped 3.0e-06" in page
    assert "| grouped | 30 | 10.0 | 48,000 | 25.0 % | 100.0 | 3.5 GB |" in page
    assert "| stock PEFT, padded | - | 1000.0 | 480 | 0.5 % | 1.0 |  |" in page
    assert "A step, grouped: 1,500 launches, 1 waits, 9.5 ms of kernels: gemm x 4.00 ms." in page
    assert "not run" not in page.lower()
    assert "left out" not in page.lower()


def test_a_result_that_broke_off_is_shown_as_far_as_it_goes(written):
    told = copy.deepcopy(TOLD)
    del told["limits"], told["RoBERTa-base"]["peft"], told["RoBERTa-base"]["kernels"]
    told |= {"failed": {"RoBERTa-base peft": "OutOfMemoryError"}, "left_out": ["LLaMA 1B peft"]}
    page = written(told)
    assert "| grouped | 30 | 10.0 | 48,000 |  |  | 3.5 GB |" in page
    assert "Failed: RoBERTa-base peft." in page
    assert "Left out: LLaMA 1B peft." in page


def test_a_trial_says_that_its_figures_say_nothing(written):
    assert "these figures say nothing" in written({**TOLD, "small": True})


def test_the_page_and_the_results_that_are_there_agree():
    page = (Path(__file__).parents[1] / "docs" / "gpu.md").read_text(encoding="utf-8")
    assert blocks.blocks_of(page)["measured"] == gpu_results.gpu_measured() + "\n"
    assert ("Not run yet" in page) == (not gpu_results.RESULTS.is_file())
