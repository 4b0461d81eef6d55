"""Small language models with random weights, and the greedy answer by the plainest way there is."""

import torch
from tiny_models import tokenizer

from fedlora.core.adapter import Adapter, Start
from fedlora.training.model import make_causal_base

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
