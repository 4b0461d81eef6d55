"""Generation is greedy, with adapters on, and token for token what transformers generates with the exported model."""

import warnings
from dataclasses import replace

import numpy
import pytest
import torch
from causal_models import DECODERS, SMALL, causal_base, greedy, needs_weights, random_start, require_equal, stock
from torch import nn

from fedlora.core.adapter import Adapter, Start
from fedlora.core.kinds import vera_projection
from fedlora.core.lowrank import LowRank
from fedlora.training import generation as subject
from fedlora.training.bases.loading import load_causal_base
from fedlora.training.bases.model_files import write_model
from fedlora.training.bases.peft_files import write_peft
from fedlora.training.generation import Limits, generate

TEXT = (
    "It was a fine morning in the spring of the year, and the old man, who had walked all the way from the village, "
    "sat down upon a stone by the road to rest himself. He took a piece of bread out of his pocket, looked at it for "
    "some time, and said that the world was no longer what it had been when his father kept the inn at the corner."
)


def prompts_of(lengths, vocabulary=60, seed=0):
    generator = numpy.random.default_rng(seed)
    return [generator.integers(5, vocabulary, length).astype(numpy.int32) for length in lengths]


# ------------------------------------------------------------- small random models in float64 against the plain way


def compared(base, spec, start, limits, prompts):
    """The numbers of the prompts whose answers differ from those of the plain way."""
    found = generate(base, spec, start, prompts, limits)
    return [n for n, p in enumerate(prompts) if found[n].ids != greedy(base, spec, start, p, limits)]


LENGTHS = (3, 17, 8, 3, 30, 1, 12, 39, 22)
LIMITS = Limits(stops=(2, 7, 11, 12), max_length=40, most_new_tokens=None)


@pytest.mark.parametrize("kind", DECODERS)
def test_every_prompt_gets_its_greedy_answer_up_to_the_last_position(kind):
    base = causal_base(kind)
    start, spec = random_start(base), base.spec(2, 0.5)
    assert compared(base, spec, start, LIMITS, prompts_of(LENGTHS)) == []


def test_answers_end_where_they_should():
    base = causal_base("llama")
    start, spec, prompts = random_start(base), base.spec(2, 0.5), prompts_of(LENGTHS)
    free = generate(base, spec, start, prompts, replace(LIMITS, stops=()))
    assert [len(one.ids) for one in free] == [40 - length for length in LENGTHS]
    assert not any(one.ended for one in free)
    short = generate(base, spec, start, prompts, replace(LIMITS, stops=(), most_new_tokens=5))
    assert [one.ids for one in short] == [one.ids[:5] for one in free]
    stop = free[0].ids[4]
    assert stop not in free[0].ids[:4]
    ended = generate(base, spec, start, prompts[:1], replace(LIMITS, stops=(stop,)))[0]
    assert (ended.ids, ended.ended) == (free[0].ids[:4], True)


def test_a_small_batch_gives_what_a_large_one_gives(monkeypatch):
    base = causal_base("gpt2")
    start, spec, prompts = random_start(base), base.spec(2, 0.5), prompts_of(LENGTHS)
    together = generate(base, spec, start, prompts, LIMITS)
    monkeypatch.setattr(subject, "_TOKENS_ELSEWHERE", 1)
    assert generate(base, spec, start, prompts, LIMITS) == together


def kinds_of_starts(base):
    """Kind -> (spec, start) of everything that a run can end in."""
    start, spec = random_start(base), base.spec(2, 0.5)
    pairs = random_start(base, seed=1).adapter
    merged = {module: LowRank(pairs.input[module], pairs.output[module]) for module in base.shapes}
    generator = torch.Generator().manual_seed(2)

    def draw(*shape):
        return 0.1 * torch.randn(shape, generator=generator)

    vera = base.spec(4, 1.0, "vera", projection=vera_projection(base.shapes, 4, 3))
    inputs = {module: draw(4) for module in base.shapes}
    outputs = {module: 5 * draw(d_out) for module, (d_out, _) in base.shapes.items()}
    names = {name: draw(*parameter.shape) for name, parameter in base.model.named_parameters()}
    return {
        "lora": (spec, start),
        "merged pairs": (spec, replace(start, merged=merged)),
        "merged matrices": (spec, replace(start, merged={m: p.B @ p.A for m, p in merged.items()})),
        "vera": (vera, Start(Adapter(inputs, outputs, kind="vera"))),
        "dense": (base.spec(1, 1.0, "dense"), Start(Adapter({}, names, kind="dense"))),
    }


@pytest.mark.parametrize("kind", ["lora", "merged pairs", "merged matrices", "vera", "dense"])
def test_adapters_and_merged_updates_of_every_kind_are_on(kind):
    base = causal_base("llama")
    spec, start = kinds_of_starts(base)[kind]
    before = {name: parameter.clone() for name, parameter in base.model.named_parameters()}
    assert compared(base, spec, start, LIMITS, prompts_of(LENGTHS)) == []
    assert all(before[name].equal(parameter) for name, parameter in base.model.named_parameters())


def test_what_a_checkpoint_recommends_is_left_aside(monkeypatch):
    base = causal_base("llama")
    start, spec, prompts = random_start(base), base.spec(2, 0.5), prompts_of(LENGTHS)
    advised = base.model.generation_config
    advised.repetition_penalty, advised.suppress_tokens, advised.min_new_tokens = 5.0, list(range(20, 60)), 9
    assert compared(base, spec, start, LIMITS, prompts) == []
    monkeypatch.setattr(subject, "_undecided", lambda model: model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers tells that the advice leaves no room
        assert compared(base, spec, start, LIMITS, prompts) != []


def right_padded(rows, padding):
    ids = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=padding)
    return ids, torch.tensor([[1] * len(row) + [0] * (ids.shape[1] - len(row)) for row in rows])


def padding_read(rows, padding, left_padded=subject.left_padded):
    ids, mask = left_padded(rows, padding)
    return ids, torch.ones_like(mask)


@pytest.mark.parametrize(
    ("place", "fault"),
    [
        ("left_padded", right_padded),
        ("left_padded", padding_read),
        ("additions", lambda start, spec: {}),
    ],
    ids=["padding on the right", "padding that is read", "the adapter is off"],
)
def test_planted_faults_of_a_batch_are_seen(monkeypatch, place, fault):
    base = causal_base("llama")
    start, spec, prompts = random_start(base), base.spec(2, 0.5), prompts_of(LENGTHS)
    monkeypatch.setattr(subject, place, fault)
    assert len(compared(base, spec, start, LIMITS, prompts)) > len(prompts) // 2


def test_planted_a_stop_that_is_missing():
    base = causal_base("llama")
    start, spec, prompts = random_start(base), base.spec(2, 0.5), prompts_of(LENGTHS)
    whole = [greedy(base, spec, start, prompt, LIMITS) for prompt in prompts]
    for stop in LIMITS.stops:
        others = replace(LIMITS, stops=tuple(other for other in LIMITS.stops if other != stop))
        if any(stop in greedy(base, spec, start, prompt, others) for prompt in prompts):
            assert [one.ids for one in generate(base, spec, start, prompts, others)] != whole
            return
    pytest.fail("no answer ends with any of the stops")


# --------------------------------------------------------------- a trained model against transformers' own generate


@pytest.fixture(scope="module")
def small():
    return load_causal_base(str(SMALL))


def novel_prompts(tokenizer, count):
    """Beginnings in the middle of a text, of unequal length."""
    ids = tokenizer(TEXT)["input_ids"]
    generator = numpy.random.default_rng(0)
    firsts, lengths = generator.integers(0, len(ids) - 60, count), generator.integers(1, 60, count)
    return [numpy.array(ids[a : a + n], dtype=numpy.int32) for a, n in zip(firsts, lengths, strict=True)]


def exported(kind, base, folder):
    """The model of a kind, and the same as stock PEFT or transformers load it from what we export."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    start = random_start(base, size=0.3)
    spec = base.spec(2, 0.5)
    if kind == "merged":
        pairs = random_start(base, size=0.3, seed=1).adapter
        start = replace(start, merged={m: pairs.output[m] @ pairs.input[m] for m in base.shapes})
        write_model(folder, start, spec, base, {})
        return spec, start, AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    write_peft(folder, start, spec, base, {})
    model = AutoModelForCausalLM.from_pretrained(SMALL, dtype=torch.float32)
    return spec, start, PeftModel.from_pretrained(model, folder).eval()


@needs_weights
@pytest.mark.parametrize("kind", ["adapter", "merged"])
def test_forty_prompts_are_answered_as_by_the_exported_model(small, tmp_path, kind):
    """Two seconds: the reference goes token by token and prompt by prompt."""
    spec, start, model = exported(kind, small, tmp_path)
    full_stop = small.tokenizer(".")["input_ids"][-1]
    limits = Limits(stops=(small.tokenizer.eos_token_id, full_stop), max_length=64, most_new_tokens=12)
    prompts = novel_prompts(small.tokenizer, 40)
    found = generate(small, spec, start, prompts, limits)
    assert 3 < sum(one.ended for one in found) < 40
    require_equal(model, prompts, [one.ids for one in found], stock(model, prompts, limits, small.padding))
