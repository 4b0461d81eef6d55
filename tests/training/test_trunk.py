"""The trunk: what lies below the adapted layers, computed once, gives what every pass would compute."""

import copy
import os
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy
import pytest
import torch
from tiny_models import DECODERS, ENCODERS, LABELS, owned_by, some_tokens, tiny_model, tokenizer

from fedlora.core.adapter import BOTH, Adapter, Start, fresh_adapter
from fedlora.core.rounds import Fit, FitJob, ScoreJob
from fedlora.training import cache as caches
from fedlora.training.bases.model import make_base
from fedlora.training.forward import trunk as subject
from fedlora.training.forward.current_pass import Below
from fedlora.training.forward.packed import fastest_forward
from fedlora.training.forward.packing import PackedEncoder
from fedlora.training.forward.padded import PaddedForward
from fedlora.training.forward.trunk import NoTrunk
from fedlora.training.loop import ModelTrainer
from fedlora.training.settings import TrainSettings
from fedlora.training.tasks.classification import Classification

KINDS = [kind for kind in (*ENCODERS, *DECODERS) if kind != "albert"]  # whose layers are one
BATCHES = [numpy.array([3, 1, 12]), numpy.array([7]), numpy.array([0, 11, 5, 2])]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "fedlora" / "trunk"


def base_of(kind, dtype=torch.float64, layers=(1,)):
    return make_base(tiny_model(kind).to(dtype), tokenizer(), kind, LABELS, layers=list(layers))


def starts_of(base):
    """Three clients with ranks 2, 1 and 3; every tensor is a leaf that wants a gradient."""
    draw = torch.Generator().manual_seed(0)
    dtype = next(base.model.parameters()).dtype
    dtype = torch.float32 if dtype == torch.bfloat16 else dtype

    def leaf(*shape):
        return (torch.randn(shape, generator=draw) / shape[-1] ** 0.5).to(dtype).requires_grad_()

    return [
        Start(
            Adapter(
                {m: leaf(rank, d_in) for m, (_, d_in) in base.shapes.items()},
                {m: leaf(d_out, rank) for m, (d_out, _) in base.shapes.items()},
                {name: (part.to(dtype) + 0.01).requires_grad_() for name, part in base.head.items()},
            )
        )
        for rank in (2, 1, 3)
    ]


def logits_and_gradients(forward, starts, tokens=None):
    found = [made.logits() for _, made in forward.outputs(tokens or some_tokens(), starts, BATCHES)]
    leaves = [t for s in starts for part in (s.adapter.input, s.adapter.output, s.adapter.dense) for t in part.values()]
    every = torch.cat([logits.flatten() for logits in found])
    weights = torch.linspace(0.5, 1.5, len(every), dtype=every.dtype)
    return [*found, *torch.autograd.grad((every * weights).sum(), leaves)]


def near(one, other, rtol, atol):
    for left, right in zip(one, other, strict=True):
        torch.testing.assert_close(left, right, rtol=rtol, atol=atol)


def trunk_of(base, tokens, **others):
    """A forward and what it computes of tokens."""
    forward = fastest_forward(base, base.spec(3, 2.0, head="shared"), **others)
    return forward, forward.trunk.states(tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_gradients_are_the_padded_ones_in_float64(kind):
    """With and without the trunk, with the last layer's short form and with the whole layer."""
    base = base_of(kind)
    spec, starts, tokens = base.spec(3, 2.0, head="shared"), starts_of(base), some_tokens()
    expected = logits_and_gradients(PaddedForward(base, spec), starts)
    packed = fastest_forward(base, spec)
    assert packed.trunk.layer == 1
    tolerance = (1e-5, 1e-7) if kind in {"llama", "qwen2", "mistral"} else (1e-9, 1e-11)  # RMS norms are float32
    for trunk in (packed.trunk, None):
        for encoder in (packed.encoder, packed.encoder.whole):
            forward = replace(packed, trunk=trunk, encoder=encoder)
            near(logits_and_gradients(forward, starts, tokens), expected, *tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_in_float32_the_values_are_equal_to_1e_6(kind):
    """To the bit where a row of a matrix product does not depend on how many rows there are, which is no promise."""
    base = base_of(kind, torch.float32)
    spec, starts = base.spec(3, 2.0, head="shared"), starts_of(base)
    packed = fastest_forward(base, spec)
    without = logits_and_gradients(replace(packed, trunk=None), starts)
    near(logits_and_gradients(packed, starts, some_tokens()), without, 1e-5, 1e-6)


def test_bfloat16_states_are_kept_in_their_own_bits(folder):
    base, tokens = base_of("bert", torch.bfloat16), replace(some_tokens(), cached=True)
    forward, states = trunk_of(base, tokens)
    assert (states.dtype, states.shape) == (numpy.int16, (len(tokens.ids), 32))
    found = forward.trunk.below(tokens, numpy.arange(2)).states
    assert found.dtype == torch.bfloat16
    near([found], [torch.from_numpy(states[: tokens.starts[2]].copy()).view(torch.bfloat16)[None]], 0, 0)


def test_layers_below_compute_nothing_and_are_computed_once():
    base = make_base(_deep(), tokenizer(), "bert", LABELS, layers=[2, 3])
    tokens, starts = some_tokens(), starts_of(base)
    seen = dict.fromkeys(range(4), 0)
    for number in range(4):
        part = base.model.get_submodule(f"bert.encoder.layer.{number}.output.dense")
        part.register_forward_hook(lambda *_, number=number: seen.update({number: seen[number] + 1}))
    packed = fastest_forward(base, base.spec(3, 2.0, head="shared"))
    seen.update(dict.fromkeys(seen, 0))
    for _ in range(3):
        list(packed.outputs(tokens, starts, BATCHES))
    once = len(set(tokens.lengths.tolist()))  # a pass for each length
    assert seen == {0: once, 1: once, 2: 3, 3: 3}


def _deep():
    import transformers

    config = transformers.BertConfig(
        vocab_size=60, num_labels=3, pad_token_id=0, hidden_size=32, num_hidden_layers=4, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=40,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.AutoModelForSequenceClassification.from_config(config).eval()


def test_where_something_changes_below_there_is_no_trunk():
    """All layers, full fine-tuning, shared layers, a head that reaches down, or nothing to keep it in."""
    assert fastest_forward(base_of("bert", layers=(0, 1)), base_of("bert", layers=(0, 1)).spec(3, 2.0)).trunk is None
    base = base_of("bert")
    assert fastest_forward(base, base.spec(1, 1.0, "dense")).trunk is None
    assert fastest_forward(base, base.spec(3, 2.0), trunk_cache_gb=0.0).trunk is None
    albert = base_of("albert", layers=(0,))
    assert fastest_forward(albert, albert.spec(3, 2.0)).trunk is None
    for lacking in ("bert.embeddings.word_embeddings.weight", "bert.encoder.layer.0.output.dense.bias"):
        trained = make_base(tiny_model("bert"), tokenizer(), "bert", LABELS, layers=[1], missing=[lacking])
        assert fastest_forward(trained, trained.spec(3, 2.0)).trunk is None


def test_a_model_whose_layers_cannot_be_passed_over_is_computed_whole(monkeypatch):
    """The planted fault: states that are a layer's output and not its input."""
    usual = PackedEncoder.states
    monkeypatch.setattr(PackedEncoder, "states", lambda self, pack, layer: usual(self, pack, layer) + 0.1)
    base = base_of("bert")
    packed = fastest_forward(base, base.spec(3, 2.0))
    assert packed.trunk is None


def test_states_of_other_examples_are_seen(monkeypatch):
    """The planted fault: the examples in another order."""
    base = base_of("bert")
    spec, starts, tokens = base.spec(3, 2.0, head="shared"), starts_of(base), some_tokens()
    packed = fastest_forward(base, spec)
    expected = logits_and_gradients(replace(packed, trunk=None), starts, tokens)
    below = packed.trunk.below(tokens, numpy.arange(20)).states
    monkeypatch.setattr(packed.trunk, "below", lambda tokens, examples: Below(1, below.flip(1)[:, : _count(examples)]))
    found = logits_and_gradients(packed, starts, tokens)
    assert float((found[0] - expected[0]).detach().abs().max()) > 1e-3


def _count(examples):
    return int(some_tokens().lengths[examples].sum())


def test_training_and_scoring_from_it():
    """A whole fit of several clients and all their scores, against the padded forward."""
    base = base_of("bert")
    spec, tokens = base.spec(3, 2.0, head="shared"), some_tokens(40)
    named = {"train": tokens, "test": tokens, "owned": owned_by(40, 4), "seed": 0, "rounds": 4}
    settings = TrainSettings(steps=10, batch_size=4, lr=1e-3)
    padded, packed = (
        ModelTrainer(make(base, spec), Classification(LABELS), settings, **named)
        for make in (PaddedForward, fastest_forward)
    )
    fresh = fresh_adapter(spec, 3, 1).with_dense(base.head)
    sides = [{m: t.double() for m, t in part.items()} for part in (fresh.input, fresh.output, fresh.dense)]
    jobs = [FitJob(f"c{k}", 1, Fit(Start(Adapter(*sides)), BOTH)) for k in range(4)]
    one, other = padded.fit(jobs), packed.fit(jobs)
    for left, right in zip(one, other, strict=True):
        near(left.start.adapter.output.values(), right.start.adapter.output.values(), 1e-9, 1e-9)
    scores = [t.score([ScoreJob(f"c{k}", own.start) for k, own in enumerate(one)]) for t in (padded, packed)]
    for left, right in zip(*scores, strict=True):
        assert left.sums["loss"] == pytest.approx(right.sums["loss"], rel=1e-9)


def test_made_once_in_the_cache_and_mapped(folder, monkeypatch):
    told = []
    base, tokens = base_of("bert", torch.float32), replace(some_tokens(), cached=True)
    _, made = trunk_of(base, tokens, announce=told.append)
    assert told == [
        "computing what lies below layer 1, the lowest adapted one, for 20 examples, once; this takes about as long as "
        "scoring them."
    ]
    (entry,) = folder.iterdir()
    assert oct(entry.stat().st_mode)[-2:] == "00", "for this user only"
    monkeypatch.setattr(PackedEncoder, "states", _only_tried(PackedEncoder.states))
    _, found = trunk_of(base_of("bert", torch.float32), replace(some_tokens(), cached=True), announce=told.append)
    assert numpy.array_equal(found, made)
    assert isinstance(found.base, numpy.memmap)
    assert len(told) == 1


def _only_tried(usual):
    """States of the few tokens of the trial alone: from here on nothing is computed."""

    def states(self, pack, layer):
        assert len(pack.firsts) == 4
        return usual(self, pack, layer)

    return states


def test_examples_that_are_not_in_the_cache_stay_out_of_it(folder):
    """A site's tokens are nowhere on disk, and from hidden states texts could be made out."""
    _, states = trunk_of(base_of("bert"), some_tokens())
    assert states is not None
    assert not folder.exists()


def test_other_contents_are_another_entry(folder):
    tokens = replace(some_tokens(), cached=True)
    trunk_of(base_of("bert", torch.float32), tokens)
    trunk_of(base_of("bert", torch.float64), tokens)  # another type
    trunk_of(base_of("bert", torch.float32), replace(some_tokens(seed=1), cached=True))  # other tokens
    joined = tokens.starts.copy()
    joined[1] -= 1
    trunk_of(base_of("bert", torch.float32), replace(tokens, starts=joined))  # the same, cut elsewhere
    other = tiny_model("bert", seed=1)
    trunk_of(make_base(other, tokenizer(), "bert", LABELS, layers=[1]), tokens)  # other weights
    louder = base_of("bert", torch.float32)
    louder.model.config.layer_norm_eps = 0.1
    trunk_of(louder, tokens)  # another config
    deep = [make_base(_deep(), tokenizer(), "bert", LABELS, layers=[layer]) for layer in (1, 3)]
    for base in deep:  # another layer
        trunk_of(base, tokens)
    assert len(list(folder.iterdir())) == 8
    trunk_of(base_of("bert", torch.float32), tokens)
    assert len(list(folder.iterdir())) == 8


def test_a_damaged_entry_is_made_anew(folder):
    tokens = replace(some_tokens(), cached=True)
    _, made = trunk_of(base_of("bert"), tokens)
    made = made.copy()
    (entry,) = folder.iterdir()
    data = bytearray((entry / "states").read_bytes())
    data[100] ^= 1
    (entry / "states").write_bytes(data)
    _, found = trunk_of(base_of("bert"), tokens)
    assert numpy.array_equal(found, made)


def test_the_bits_do_not_depend_on_how_many_cores_compute_them(monkeypatch):
    monkeypatch.setattr(subject, "_TOKENS", 30)  # many passes
    found = []
    for cores in (1, 3):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)), raising=False)
        found.append(trunk_of(base_of("bert", torch.float32), some_tokens(40))[1])
    assert numpy.array_equal(*found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_example_has_the_same_bits_in_any_company(dtype):
    """So that a site, which has its own examples alone, trains what a simulation trains."""
    base, tokens = base_of("bert", dtype), some_tokens(60)
    states = trunk_of(base, tokens)[1]
    chosen = numpy.array([7, 40, 3, 11, 59])
    few = replace(
        tokens,
        ids=numpy.concatenate([tokens[example] for example in chosen]),
        starts=numpy.concatenate([[0], numpy.cumsum(tokens.lengths[chosen])]),
        labels=tokens.labels[chosen],
    )
    alone = trunk_of(base, few)[1]
    for place, example in enumerate(chosen):
        here, there = alone[few.starts[place] : few.starts[place + 1]], slice(*tokens.starts[example : example + 2])
        assert numpy.array_equal(here, states[there])


def test_threads_that_ask_at_once_get_one_trunk(monkeypatch):
    base, tokens, told = base_of("bert", torch.float32), some_tokens(), []
    forward = fastest_forward(base, base.spec(3, 2.0), announce=lambda what: (told.append(what), time.sleep(0.2)))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: forward.trunk.states(tokens), range(8)))
    assert len(told) == 1
    assert all(states is found[0] for states in found)


def test_what_does_not_fit_is_said_once_and_every_pass_computes_it():
    base = base_of("bert")
    spec, starts, tokens = base.spec(3, 2.0, head="shared"), starts_of(base), some_tokens()
    size = len(tokens.ids) * 32 * 8
    packed = fastest_forward(base, spec, trunk_cache_gb=1.5 * size / 1e9)
    test = some_tokens(seed=1)
    packed.prepare(tokens)
    with pytest.warns(
        NoTrunk, match=r"below layer 1, the lowest .* 20 examples takes .* GB, and train.trunk_cache_gb = .* leaves"
    ):
        found = logits_and_gradients(packed, starts, test)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert packed.trunk.states(test) is None
        assert packed.trunk.states(tokens) is not None
    near(found, logits_and_gradients(PaddedForward(base, spec), starts, test), 1e-9, 1e-11)


def test_a_site_without_memory_to_spare_goes_on_without(monkeypatch):
    monkeypatch.setattr(subject, "available", lambda: 1000)
    with pytest.warns(NoTrunk, match="of memory, of which .* GB are free: every pass computes it again"):
        assert trunk_of(base_of("bert"), some_tokens())[1] is None


def test_a_cache_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    (tmp_path / "fedlora").write_text("a file in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.warns(NoTrunk, match=r"cannot be kept \(.*Not a directory"):
        assert trunk_of(base_of("bert"), replace(some_tokens(), cached=True))[1] is None


def test_the_cache_holds_no_more_than_the_config_says(folder):
    """The longest unused goes first; what this run itself has made stays."""
    base = base_of("bert")
    sets = [replace(some_tokens(seed=seed), cached=True) for seed in range(4)]
    room = 2.5 * max(len(tokens.ids) for tokens in sets) * 32 * 8 / 1e9
    entries = []
    for tokens in sets[:2]:
        trunk_of(base, tokens, trunk_cache_gb=room)
        entries.append(next(path.name for path in folder.iterdir() if path.name not in entries))
    os.utime(folder / entries[0], (1, 1))
    trunk_of(base, sets[1], trunk_cache_gb=room)
    forward, _ = trunk_of(base, sets[2], trunk_cache_gb=room)
    assert entries[0] not in os.listdir(folder)
    assert entries[1] in os.listdir(folder)
    os.utime(next(path for path in folder.iterdir() if path.name not in entries), (2, 2))
    forward.prepare(sets[3])
    assert len(os.listdir(folder)) == 2
    assert entries[1] not in os.listdir(folder)


def test_what_a_killed_process_left_goes_after_a_day(folder):
    old, new = folder / ".making-old", folder / ".making-new"
    for left in (old, new):
        left.mkdir(parents=True)
        (left / "states").write_bytes(b"half")
    for path in (old / "states", old):
        os.utime(path, (time.time() - 2 * caches._A_DAY,) * 2)
    caches.make_room("trunk", 10**9, set())
    assert os.listdir(folder) == [".making-new"]


def test_killed_in_the_middle_there_is_nothing_and_the_next_one_makes_it(folder, tmp_path):
    """A process of its own, killed after its first pack was written."""
    line = [sys.executable, __file__, str(tmp_path / "told")]
    with subprocess.Popen(line, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}) as process:
        until = time.time() + 120
        while not (tmp_path / "told").exists():
            assert process.poll() is None
            assert time.time() < until
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert [path.name[:8] for path in folder.iterdir()] == [".making-"]
    _, states = trunk_of(base_of("bert"), replace(some_tokens(), cached=True))
    assert numpy.array_equal(states, trunk_of(base_of("bert"), some_tokens())[1])


def test_a_copied_model_has_layers_of_its_own():
    base = base_of("bert")
    fastest_forward(base, base.spec(3, 2.0))
    other = copy.deepcopy(base.model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1)
    ids = torch.tensor([[5, 6, 7]])
    mask = torch.ones_like(ids)
    copied = replace(base, model=other)
    other_packed, padded = fastest_forward(copied, base.spec(3, 2.0)), PaddedForward(copied, base.spec(3, 2.0))
    starts = starts_of(base)
    near(logits_and_gradients(other_packed, starts), logits_and_gradients(padded, starts), 1e-9, 1e-11)
    assert not other(input_ids=ids, attention_mask=mask).logits.equal(
        base.model(input_ids=ids, attention_mask=mask).logits
    )


if __name__ == "__main__":  # what the test above kills
    usual = subject.Trunk._of_piece
    calls = []

    def slow(self, tokens, examples):
        if calls:
            open(sys.argv[1], "w").close()
            time.sleep(300)
        calls.append(1)
        return usual(self, tokens, examples)

    subject._TOKENS, subject.Trunk._of_piece = 30, slow
    os.sched_getaffinity = lambda _: {0}
    trunk_of(base_of("bert"), replace(some_tokens(), cached=True))
