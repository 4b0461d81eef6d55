"""Bases in 4 and 8 bits: adapters beside frozen codes, the same numbers packed and padded, nothing quantised twice."""

import pytest
import torch
from tiny_models import owned_by, some_dialogues, tiny_language_model, tokenizer

from fedlora.core.adapter import BOTH, Start, fresh_adapter
from fedlora.core.lowrank import LowRank
from fedlora.core.rounds import Fit, FitJob, ScoreJob
from fedlora.errors import ModelError
from fedlora.training.bases.loaded_model import LoadedModel, handed_causal_base
from fedlora.training.bases.loading import load_causal_base
from fedlora.training.forward.packed import fastest_forward
from fedlora.training.forward.padded import PaddedForward
from fedlora.training.loop import ModelTrainer
from fedlora.training.settings import TrainSettings
from fedlora.training.tasks.causal_lm import CausalLM

pytest.importorskip("bitsandbytes")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("base")
    tiny_language_model("llama", hidden_size=64, intermediate_size=128).save_pretrained(path)
    tokenizer().save_pretrained(path)
    return str(path)


def codes(base):
    return {n: p.detach().clone() for n, p in base.model.named_parameters() if not p.is_floating_point()}


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_adapters_train_beside_frozen_codes(folder, quantization):
    base = load_causal_base(folder, quantization=quantization)
    whole = load_causal_base(folder)
    assert base.shapes == whole.shapes
    assert base.fingerprint != whole.fingerprint
    before = codes(base)
    assert len(before) == len(base.shapes)
    assert base.model.lm_head.weight.dtype == torch.float32
    spec = base.spec(3, 2.0)
    tokens, settings = some_dialogues(40), TrainSettings(steps=4, batch_size=4, lr=1e-3)
    named = {"train": tokens, "test": tokens, "owned": owned_by(40, 2), "seed": 0, "rounds": 2}
    forward = fastest_forward(base, spec)
    assert not isinstance(forward, PaddedForward)
    draw = torch.Generator().manual_seed(1)
    merged = {
        m: LowRank(torch.randn(2, i, generator=draw) / 9, torch.randn(o, 2, generator=draw) / 9)
        for m, (o, i) in base.shapes.items()
    }
    start = Start(fresh_adapter(spec, 3, 1), merged)
    jobs = [FitJob(f"c{k}", 1, Fit(start, BOTH)) for k in range(2)]
    packed, oracle = (
        ModelTrainer(way, CausalLM(40), settings, **named) for way in (forward, PaddedForward(base, spec))
    )
    for left, right in zip(packed.fit(jobs), oracle.fit(jobs), strict=True):
        assert left.loss == pytest.approx(right.loss, rel=1e-5 if quantization == "4bit" else 1e-2)
    (score,) = packed.score([ScoreJob(None, start)])
    (plain,) = ModelTrainer(fastest_forward(whole, spec), CausalLM(40), settings, **named).score(
        [ScoreJob(None, start)]
    )
    gap = abs(score.sums["loss"] / plain.sums["loss"] - 1)
    assert 0 < gap < 0.1  # other weights, but nearly those
    after = codes(base)
    assert all(after[name].equal(code) for name, code in before.items())


def test_a_model_that_is_handed_over_in_four_bits_is_refused(folder):
    base = load_causal_base(folder, quantization="4bit")
    with pytest.raises(ModelError, match=r"hand over its folder or name, and set model\.quantization"):
        handed_causal_base(LoadedModel(base.model, base.tokenizer))
