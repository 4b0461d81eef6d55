"""Small models of every architecture, made from their configs; nothing is downloaded."""

from dataclasses import replace
from itertools import pairwise

import numpy
import torch

from fedlora.training.data.split import Owned
from fedlora.training.encoding.tokens import Tokens
from fedlora.training.generated.encoder import word_tokenizer

WORDS = [f"w{number}" for number in range(50)]
LABELS = ("no", "yes", "perhaps")
ENCODERS = ("bert", "roberta", "distilbert", "albert", "electra", "modernbert")
DECODERS = ("gpt2", "llama", "qwen2", "mistral")
LANGUAGE_MODELS = (*DECODERS, "qwen3", "phi", "phi3", "gemma", "gemma2", "gpt_neox", "opt")


def tiny_model(kind, seed=0):
    """A model for classification with random weights, in eval mode. Not square anywhere that matters."""
    import transformers as t

    return _random(t.AutoModelForSequenceClassification, _config(kind), seed)


def tiny_language_model(kind, seed=0, **changes):
    """A language model with random weights, likewise. `changes` are keys of its config."""
    import transformers as t

    config = _config(kind)
    for name, value in changes.items():
        setattr(config, name, value)
    return _random(t.AutoModelForCausalLM, config, seed)


def _random(factory, config, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = factory.from_config(config)
        for parameter in model.parameters():  # GPT-2 and others start with tiny or zero weights
            parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


def _config(kind):
    import transformers as t

    common = {"vocab_size": 60, "num_labels": len(LABELS), "pad_token_id": 0}
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    configs = {
        "bert": lambda: t.BertConfig(**common, **sizes, max_position_embeddings=40),
        "roberta": lambda: t.RobertaConfig(**common, **sizes, max_position_embeddings=40),
        "distilbert": lambda: t.DistilBertConfig(
            **common, dim=32, n_layers=2, n_heads=2, hidden_dim=48, max_position_embeddings=40
        ),
        "albert": lambda: t.AlbertConfig(**common, **sizes, embedding_size=16, max_position_embeddings=40),
        "electra": lambda: t.ElectraConfig(**common, **sizes, embedding_size=16, max_position_embeddings=40),
        "modernbert": lambda: t.ModernBertConfig(**common, **sizes, **tokens, max_position_embeddings=40),
        "deberta-v2": lambda: t.DebertaV2Config(**common, **sizes, max_position_embeddings=40),
        "gpt2": lambda: t.GPT2Config(**common, n_embd=32, n_layer=2, n_head=2, n_positions=40, n_inner=48),
        "llama": lambda: t.LlamaConfig(**common, **sizes, num_key_value_heads=1, max_position_embeddings=40),
        "qwen2": lambda: t.Qwen2Config(**common, **sizes, num_key_value_heads=2, max_position_embeddings=40),
        "mistral": lambda: t.MistralConfig(
            **common, **sizes, num_key_value_heads=1, max_position_embeddings=40, sliding_window=4
        ),
        "qwen3": lambda: t.Qwen3Config(
            **common, **sizes, num_key_value_heads=1, max_position_embeddings=40, head_dim=16
        ),
        "phi": lambda: t.PhiConfig(**common, **sizes, max_position_embeddings=40),
        "phi3": lambda: t.Phi3Config(**common, **sizes, num_key_value_heads=1, max_position_embeddings=40),
        "gemma": lambda: t.GemmaConfig(
            **common, **sizes, num_key_value_heads=1, max_position_embeddings=40, head_dim=16
        ),
        "gemma2": lambda: t.Gemma2Config(
            **common, **sizes, num_key_value_heads=1, max_position_embeddings=40, head_dim=16
        ),
        "gpt_neox": lambda: t.GPTNeoXConfig(**common, **sizes, max_position_embeddings=40),
        "opt": lambda: t.OPTConfig(
            **common,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            ffn_dim=48,
            max_position_embeddings=40,
            word_embed_proj_dim=32,
        ),
    }
    return configs[kind]()


def tokenizer():
    return word_tokenizer(WORDS)


def some_tokens(count=20, seed=0):
    generator = numpy.random.default_rng(seed)
    lengths = generator.integers(3, 12, count)
    starts = numpy.concatenate([[0], numpy.cumsum(lengths)]).astype(numpy.int64)
    ids = generator.integers(5, 55, int(starts[-1])).astype(numpy.int32)
    return Tokens(ids, starts, generator.integers(0, len(LABELS), count).astype(numpy.int64))


def owned_by(count, clients):
    parts = numpy.array_split(numpy.arange(count), clients)
    return {f"c{number}": Owned(part, part[:0], part) for number, part in enumerate(parts)}


def some_dialogues(count=20, seed=0):
    """Tokens of which a random stretch at the end is to be predicted; some have two such stretches."""
    tokens = some_tokens(count, seed)
    generator = numpy.random.default_rng(seed + 1)
    supervised = numpy.zeros(len(tokens.ids), dtype=numpy.bool_)
    answers = []
    for start, end in pairwise(tokens.starts.tolist()):
        answer = int(generator.integers(start + 1, end))
        answers.append(answer - start)
        supervised[answer:end] = True
        supervised[start + 1] |= end - start > 8
    none = numpy.zeros(count, dtype=numpy.int64)
    return replace(tokens, labels=none, supervised=supervised, text_bytes=tokens.lengths, answers=numpy.array(answers))
