# SPDX-License-Identifier: Apache-2.0
"""LoRA-A2 and FedIT once more in plain PyTorch, in one sitting, to hold fedlora's curves against.

Only the examples and their owners come from fedlora, so that both see the same data; model, adapters,
training, selection and aggregation are written here a second time, with other random draws.

    python benchmarks/reference.py DATA BASE METHOD OUT.json [SEED]
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy
import torch
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer

from fedlora.training.data.examples import take_some
from fedlora.training.data.labelled import Columns, from_files
from fedlora.training.data.split import SplitSettings, split

SCALE, RANK, POOL, LR, ROUNDS = 8.0, 2, 16, 5e-4, 12


def main(data, folder, method, out, seed=0):
    whole = from_files(Path(data), Columns(), 0.2, seed)
    dataset = take_some(whole, 2000, None, seed)
    dataset = replace(dataset, test=whole.test.take(numpy.arange(0, len(whole.test), 5)))
    settings = SplitSettings("dirichlet", 10, 0.1, balanced=False)
    clients = [own.train for own in split(dataset.train, dataset.test, settings, seed).clients.values()]

    torch.manual_seed(1000 + seed)
    random = numpy.random.default_rng(1000 + seed)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval().requires_grad_(False)
    head = 0.1 * torch.randn(len(dataset.labels), model.config.hidden_size)

    slots = POOL if method == "lora-a2" else RANK
    maps = [m for m in model.encoder.modules() if isinstance(m, torch.nn.Linear)]
    A = [torch.randn(slots, m.in_features) / m.in_features**0.5 for m in maps]
    B = [torch.zeros(m.out_features, slots) for m in maps]
    live = {"A": A, "B": B}
    for i, m in enumerate(maps):
        m.register_forward_hook(
            lambda m, x, y, i=i: y + SCALE * functional.linear(functional.linear(x[0], live["A"][i]), live["B"][i])
        )

    def logits(texts):
        batch = tokenizer(list(texts), padding=True, truncation=True, max_length=128, return_tensors="pt")
        return model(**batch).last_hidden_state[:, 0] @ head.T

    def train(own, which, masks=None):
        """One epoch from the global factors; returns the trained copies."""
        copy = {name: [t.clone() for t in live_now] for name, live_now in (("A", A), ("B", B))}
        groups = [
            {"params": copy[name], "lr": LR * (5 if name == "B" and method == "lora-a2" else 1)} for name in which
        ]
        for group in groups:
            for t in group["params"]:
                t.requires_grad_(True)
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
        live.update(copy)
        order = random.permutation(own)
        total = 0.0
        for first in range(0, len(order), 16):
            batch = order[first : first + 16]
            labels = torch.from_numpy(dataset.train.labels[batch])
            loss = functional.cross_entropy(logits([dataset.train.texts[i] for i in batch]), labels)
            optimizer.zero_grad()
            loss.backward()
            if masks is not None:
                for t, mask in zip(copy[which[0]], masks, strict=True):
                    t.grad *= mask if which[0] == "B" else mask[:, None]
            optimizer.step()
            total += float(loss.detach()) * len(batch)
        live.update({"A": A, "B": B})
        return {name: [t.detach() for t in own] for name, own in copy.items()}, total / len(order)

    curve, sent = [], 0
    for round in range(1, ROUNDS + 1):
        sums = {"A": [torch.zeros_like(t) for t in A], "B": [torch.zeros_like(t) for t in B]}
        total, losses = sum(map(len, clients)), 0.0
        active = "B" if round % 2 else "A"
        for own in clients:
            if method == "fedit":
                trained, loss = train(own, ("A", "B"))
                for name, now in (("A", A), ("B", B)):
                    for s, t, g in zip(sums[name], trained[name], now, strict=True):
                        s.add_(len(own) / total * (t - g))
                        sent += t.numel()
            else:
                now, other = (B, A) if active == "B" else (A, B)
                probe, _ = train(own, (active,))
                dim, across = (0, 1) if active == "B" else (1, 0)
                scores = torch.stack(
                    [
                        (t - g).norm(dim=dim) * o.norm(dim=across)
                        for t, g, o in zip(probe[active], now, other, strict=True)
                    ]
                )
                masks = torch.zeros(scores.numel())
                masks[scores.flatten().topk(RANK * len(maps)).indices] = 1.0
                masks = masks.view_as(scores)
                trained, loss = train(own, (active,), masks)
                for s, t, g, mask in zip(sums[active], trained[active], now, masks, strict=True):
                    s.add_(len(own) / total * (t - g))
                    sent += int(mask.sum()) * (t.shape[0] if active == "B" else t.shape[1])
            losses += len(own) / total * loss
        for name, now in (("A", A), ("B", B)):
            for t, s in zip(now, sums[name], strict=True):
                t.add_(s)
        line = {"round": round, "loss": losses, "parameters_up": sent}
        if round % 4 == 0:
            right = 0
            with torch.no_grad():
                for first in range(0, len(dataset.test), 64):
                    guesses = logits(dataset.test.texts[first : first + 64]).argmax(dim=1)
                    right += int((guesses == torch.from_numpy(dataset.test.labels[first : first + 64])).sum())
            line["accuracy"] = right / len(dataset.test)
        curve.append(line)
        print(method, line, flush=True)
        Path(out).write_text(json.dumps({"method": method, "seed": seed, "rounds": curve}, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:5], seed=int(sys.argv[5]) if len(sys.argv) > 5 else 0)
