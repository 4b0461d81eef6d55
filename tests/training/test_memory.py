"""Memory that runs out: for real, in a process with a limit, and the sentences."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import fedlora
from fedlora.errors import ModelError
from fedlora.training import memory
from fedlora.training.memory import Portions, SmallerPortions, is_out_of_memory, require_room

LIMITED = """
import resource, warnings
import numpy
from tiny_models import LABELS, owned_by, tiny_model, tokenizer
from fedlora.core.adapter import BOTH, Start, fresh_adapter
from fedlora.core.rounds import Fit, FitJob, ScoreJob
from fedlora.training.encoding.tokens import Tokens
from fedlora.training.bases.model import make_base
from fedlora.training.settings import TrainSettings
from fedlora.training.forward.padded import PaddedForward
from fedlora.training.loop import ModelTrainer
from fedlora.training.tasks.classification import Classification

base = make_base(tiny_model("bert"), tokenizer(), "bert", LABELS)
count, length = 3072, 38
tokens = Tokens(numpy.full(count * length, 7, numpy.int32), numpy.arange(count + 1) * length, numpy.arange(count) % 3)
spec = base.spec(2, 1.0, head="shared")

def fit():
    trainer = ModelTrainer(PaddedForward(base, spec), Classification(LABELS), TrainSettings(batch_size=count),
                           train=tokens, test=tokens, owned=owned_by(count, 1), seed=0, rounds=1)
    start = Start(fresh_adapter(spec, 2, 0).with_dense(trainer.head))
    (fitted,) = trainer.fit([FitJob("c0", 1, Fit(start, BOTH))])
    (score,) = trainer.score([ScoreJob(None, fitted.start)])
    return fitted, score

expected, _ = fit()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 120_000_000, -1))
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    found, score = fit()
assert score.examples == count
assert abs(found.loss - expected.loss) < 1e-4, (found.loss, expected.loss)
print([str(own.message) for own in told if "Memory" in str(own.message)])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits a process's memory as Linux does")
def test_a_batch_that_does_not_fit_is_halved_until_it_does():
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED],
        capture_output=True,
        text=True,
        check=False,
        cwd=here,
        env={
            "PYTHONPATH": os.pathsep.join((here, str(Path(fedlora.__file__).parents[1]))),
            "OMP_NUM_THREADS": "1",
            "PATH": "/usr/bin",
            "MALLOC_ARENA_MAX": "1",
            "MALLOC_MMAP_THRESHOLD_": "65536",  # freed blocks go back at once, so that the limit means what it says
        },
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "train.micro_batch is now" in done.stdout


def test_the_size_that_fits_is_kept():
    def work(size):
        tried.append(size)
        if size > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return size

    portions, tried = Portions(None, "train.micro_batch"), []
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", SmallerPortions)
        assert portions.run(16, work) == 2
    assert [str(own.message).split()[-1] for own in told] == ["8.", "4.", "2."]
    assert tried == [16, 8, 4, 2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert portions.run(16, work) == 2
        assert portions.run(1, work) == 1


def test_not_even_one_example():
    def work(size):
        raise MemoryError

    with pytest.raises(ModelError, match="Not even one example fits"):
        Portions(None, "x").run(1, work)


def test_other_errors_are_themselves():
    def work(size):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        Portions(None, "x").run(4, work)
    assert not is_out_of_memory(ValueError("allocate memory"))


def test_a_base_that_does_not_fit_says_what_would(tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(b"0" * 4000)
    monkeypatch.setattr(memory, "available", lambda: 3000)
    with pytest.raises(ModelError, match=r"choose a base of at most .* GB, or set model\.dtype"):
        require_room(tmp_path, 32)
    require_room(tmp_path, 16)
    monkeypatch.undo()
    require_room(tmp_path, 32)
