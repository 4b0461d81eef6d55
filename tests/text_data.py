"""A tiny decoder with a chat template, and examples of a language that it can learn in a few steps."""

import json
from pathlib import Path

import torch
from chats import tokenizer

COLOURS = ("red", "green", "blue", "white")
THINGS = ("cat", "mat", "house", "wood")
LENGTH = 64


def write_decoder(folder, kind="llama", template="chatml, marked"):
    """A base with random weights, its embeddings tied to the product with the vocabulary."""
    import transformers as t

    made = tokenizer(template=template)
    common = {"vocab_size": len(made), "pad_token_id": made.pad_token_id, "eos_token_id": made.eos_token_id}
    common |= {"bos_token_id": made.bos_token_id, "tie_word_embeddings": True}
    if kind == "gpt2":
        config = t.GPT2Config(**common, n_embd=32, n_layer=2, n_head=2, n_positions=LENGTH, n_inner=48)
    else:
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
        config = t.LlamaConfig(**common, **sizes, num_key_value_heads=1, max_position_embeddings=LENGTH)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = t.AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    model.eval().save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


def rows(count, first=0):
    """Prompts and completions, with a kind and an owner each."""
    return [
        {
            "prompt": f"{THINGS[n % 4]}, {COLOURS[n // 4 % 4]}",
            "completion": f"The {THINGS[n % 4]} is {COLOURS[n // 4 % 4]}.",
            "kind": COLOURS[n // 4 % 4],
            "site": ("ash", "birch", "cedar")[n % 7 % 3],
        }
        for n in range(first, first + count)
    ]


def write_rows(path, found):
    """Rows as a file of JSON lines."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in found))
    return path


def write_data(folder, train=48, test=16):
    """`train.jsonl` and `test.jsonl`."""
    write_rows(folder / "train.jsonl", rows(train))
    write_rows(folder / "test.jsonl", rows(test, 5))
    return folder


def text_tree(folder, **sections):
    """The config of a short run of three clients on the folder's `base` and `data`, with some keys changed."""
    tree = {
        "run": {"rounds": 2, "name": "texts"},
        "data": {"source": "files", "path": str(folder / "data"), "label": "kind"},
        "split": {"kind": "iid", "clients": 3},
        "model": {"base": str(folder / "base"), "task": "generate", "max_length": LENGTH},
        "adapter": {"rank": 4},
        "train": {"lr": 2e-2, "batch_size": 4},
        "method": {"name": "fedit"},
    }
    for section, keys in sections.items():
        tree[section] = {**tree.get(section, {}), **keys}
    return tree
