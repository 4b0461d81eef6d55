# SPDX-License-Identifier: Apache-2.0
"""A small decoder from texts: byte-level BPE of 4,096 tokens, LLaMA architecture, tied embeddings, context 256.

    python studies/bases/make_small_llama.py CORPUS OUT MINUTES

CORPUS is a file of JSON lines with a `text` each (plain or .gz); its last hundredth is held out. AdamW with a cosine
over the given minutes; bfloat16 autocast, attention in float32 (fused attention in bfloat16 is slow on CPUs). Into OUT
go the model in bfloat16, the tokenizer with a chat template, and `curve.jsonl` with the losses. How far it comes
depends on the machine, since the time is given, not the steps.
"""

import argparse
import gzip
import itertools
import json
import math
import time
from pathlib import Path

import numpy
import torch
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

CONTEXT = 256
BATCH = 16
MICRO_BATCH = 8
"""Small passes stay in a CPU's cache: 3,600 tokens a second against 2,400 at 32."""
PEAK_RATE, LAST_RATE = 3e-3, 0.02
"""Of the learning rate; the second as a share of the first."""
WARM_UP = 0.03
"""Share of the time over which the rate rises."""
VOCABULARY = 4096
END, PAD, USER, ASSISTANT = "<|endoftext|>", "<|pad|>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<|user|>{{ m['content'] }}{% else %}<|assistant|>"
    "{% generation %}{{ m['content'] }}<|endoftext|>{% endgeneration %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SCORED, SCORE_EVERY = 128, 200
"""Windows of the held-out texts that are scored, and optimiser steps between two scores."""


def read_texts(path):
    """The texts of a file of JSON lines."""
    data = path.read_bytes()
    lines = (gzip.decompress(data) if path.suffix == ".gz" else data).decode().split("\n")
    return [json.loads(line)["text"] for line in lines if line.strip()]


def make_tokenizer(texts):
    """A byte-level BPE of some texts, with an end, a padding and two turn tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END, PAD, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=END, bos_token=None, pad_token=PAD, model_max_length=CONTEXT
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def end_to_end(texts, tokenizer):
    """The ids of all texts in one array, each text followed by the end token."""
    rows = tokenizer(texts, verbose=False)["input_ids"]
    ids = itertools.chain.from_iterable([*row, tokenizer.eos_token_id] for row in rows)
    return numpy.fromiter(ids, dtype=numpy.int16)


def make_model(tokenizer):
    """An untrained model: width 224, 6 layers, 7 heads."""
    from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM

    AttentionInterface.register("float32", attention)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=224,
        intermediate_size=608,
        num_hidden_layers=6,
        num_attention_heads=7,
        num_key_value_heads=7,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="float32",
    )
    return LlamaForCausalLM(config)


def attention(module, query, key, value, mask, scaling=None, dropout=0.0, **_):
    """Causal attention in float32."""
    found = scaled_dot_product_attention(query.float(), key.float(), value.float(), is_causal=True, scale=scaling)
    return found.to(query.dtype).transpose(1, 2).contiguous(), None


def loss_of(model, ids):
    """Mean loss of the next token in windows of ids (windows, CONTEXT)."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.lm_head(model.model(input_ids=ids[:, :-1]).last_hidden_state)
    return cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())


def windows_of(ids, numbers):
    """Some windows of CONTEXT ids (windows, CONTEXT)."""
    rows = [ids[number * CONTEXT : (number + 1) * CONTEXT] for number in numbers]
    return torch.from_numpy(numpy.stack(rows).astype(numpy.int64))


@torch.inference_mode()
def held_out_loss(model, ids):
    """Mean loss over the first windows of the held-out texts."""
    count = min(SCORED, len(ids) // CONTEXT)
    batches = [range(first, min(first + BATCH, count)) for first in range(0, count, BATCH)]
    losses = [float(loss_of(model.eval(), windows_of(ids, batch))) for batch in batches]
    model.train()
    return sum(losses) / len(losses)


def shuffled(windows, generator):
    """Batches of window numbers without end, every window once in each pass."""
    while True:
        order = generator.permutation(windows)
        yield from (order[first : first + BATCH] for first in range(0, windows - BATCH + 1, BATCH))


def rate_at(share):
    """The learning rate after a share of the time."""
    if share < WARM_UP:
        return PEAK_RATE * share / WARM_UP
    return PEAK_RATE * (LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP))))


def train(model, train_ids, held_out_ids, minutes):
    """Train for some minutes; the lines of the curve."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.95), fused=True)
    batches = shuffled(len(train_ids) // CONTEXT, numpy.random.default_rng(0))
    curve, begun, step = [], time.monotonic(), 0

    def line(**more):
        seconds = round(time.monotonic() - begun)
        row = {"step": step, "tokens": step * BATCH * (CONTEXT - 1), "seconds": seconds, **more}
        row["held_out"] = round(held_out_loss(model, held_out_ids), 4)
        curve.append(row)
        print(json.dumps(row), flush=True)

    while (share := (time.monotonic() - begun) / (60 * minutes)) < 1.0:
        for group in optimizer.param_groups:
            group["lr"] = rate_at(share)
        numbers = next(batches)
        for first in range(0, BATCH, MICRO_BATCH):
            loss = loss_of(model, windows_of(train_ids, numbers[first : first + MICRO_BATCH]))
            (loss * MICRO_BATCH / BATCH).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if step % SCORE_EVERY == 0:
            line(loss=round(loss.item(), 4))
    line()
    return curve


def main():
    """Read, train, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("corpus", type=Path, help="JSON lines with a text each, plain or .gz")
    parser.add_argument("out", type=Path, help="folder of the model")
    parser.add_argument("minutes", type=float, help="of training")
    given = parser.parse_args()
    texts = read_texts(given.corpus)
    cut = len(texts) - max(1, len(texts) // 100)
    tokenizer = make_tokenizer(texts[:cut:3])
    train_ids, held_out_ids = end_to_end(texts[:cut], tokenizer), end_to_end(texts[cut:], tokenizer)
    if len(train_ids) < BATCH * CONTEXT or len(held_out_ids) < CONTEXT:
        parser.error(f"{given.corpus} is too short: {len(train_ids)} training and {len(held_out_ids)} held-out tokens")
    print(f"{len(train_ids):,} training tokens, {len(held_out_ids):,} held out", flush=True)
    model = make_model(tokenizer)
    print(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters", flush=True)
    curve = train(model, train_ids, held_out_ids, given.minutes)
    model.config._attn_implementation = "sdpa"
    model.to(torch.bfloat16).save_pretrained(given.out)
    tokenizer.save_pretrained(given.out)
    (given.out / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in curve), encoding="utf-8")


if __name__ == "__main__":
    main()
