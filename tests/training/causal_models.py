"""Small language models with random weights, and the greedy answer by the plainest way there is."""

from pathlib import Path

import numpy
import pytest
import torch
from tiny_models import tokenizer

from fedlora.core.adapter import Adapter, Start
from fedlora.training.bases.model import make_causal_base

SMALL = Path(__file__).parents[2] / "studies" / "bases" / "small-llama-novels"
needs_weights = pytest.mark.skipif(not SMALL.is_dir(), reason="the source archive has no trained weights")
ROUNDING = 1e-4
"""Two logits nearer than this may change places with the order in which float32 sums are formed."""
DECODERS = ("gpt2", "llama", "qwen2", "mistral")


def causal_model(kind, seed=0, vocabulary=60, positions=40):
    """A language model in float64, in eval mode."""
    import transformers as t

    common = {"vocab_size": vocabulary, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    sizes |= {"max_position_embeddings": positions}
    configs = {
        "gpt2": lambda: t.GPT2Config(**common, n_embd=32, n_layer=2, n_head=2, n_positions=positions, n_inner=48),
        "llama": lambda: t.LlamaConfig(**common, **sizes, num_key_value_heads=1),
        "qwen2": lambda: t.Qwen2Config(**common, **sizes, num_key_value_heads=2),
        "mistral": lambda: t.MistralConfig(**common, **sizes, num_key_value_heads=1, sliding_window=4),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = t.AutoModelForCausalLM.from_config(configs[kind]())
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.double().eval()


def causal_base(kind, **options):
    return make_causal_base(causal_model(kind, **options), tokenizer(), kind)


def random_start(base, rank=2, size=1.0, seed=0):
    """A random LoRA adapter of every map."""
    generator = torch.Generator().manual_seed(seed)
    A, B = {}, {}
    for module, (d_out, d_in) in base.shapes.items():
        A[module] = size * torch.randn(rank, d_in, generator=generator) / d_in**0.5
        B[module] = size * torch.randn(d_out, rank, generator=generator) / rank**0.5
    return Start(Adapter(A, B))


def greedy(base, spec, start, prompt, limits):
    """One token after the other, from the logits of the whole text so far; without padding and without a cache."""
    ids = list(map(int, prompt))
    for _ in range(limits.room(len(prompt))):
        text = torch.tensor([ids])
        with torch.inference_mode():
            token = int(base.logits(text, torch.ones_like(text), start, spec)[0, -1].argmax())
        if token in limits.stops:
            break
        ids.append(token)
    return tuple(ids[len(prompt) :])


def stock(model, prompts, limits, padding):
    """What transformers generates, one prompt after the other, so without padding; the end token left out."""
    answers = []
    for prompt in prompts:
        ids = torch.tensor(prompt[None].astype(numpy.int64))
        new = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=limits.room(len(prompt)),
            eos_token_id=list(limits.stops),
            pad_token_id=padding,
        )[0, len(prompt) :].tolist()
        answers.append(tuple(new[:-1] if new[-1] in limits.stops else new))
    return answers


def require_equal(model, prompts, found, expected):
    """Token for token, but that at most one answer of a hundred may part where two logits are equal in float32."""
    parted = [n for n, (one, other) in enumerate(zip(found, expected, strict=True)) if one != other]
    for n in parted:
        one, other = ((*answer, None) for answer in (found[n], expected[n]))
        at = next(place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1])
        text = torch.tensor([[*prompts[n].tolist(), *one[:at]]])
        with torch.inference_mode():
            best = model(input_ids=text).logits[0, -1].topk(2).values
        assert float(best[0] - best[1]) < ROUNDING, f"prompt {n} at token {at}: {one[at]} for {other[at]}"
    assert len(parted) <= len(prompts) / 100, parted
    return len(parted)
