# SPDX-License-Identifier: Apache-2.0
"""How the cost of a round of the cohort trainer grows: with clients, rank, sequence length, clients per pass.

    python benchmarks/curves.py BASE OUT.json

A worker a core, but for clients per pass, which is one process with all threads in its operators. BASE's six maps a
layer, FedIT, random token ids, batch 16. Each point is a round after one that warmed up:

* clients: 10 to 10,000, one step of 4 examples each, on a generated base of 2 layers and width 32, so that what
  fedlora itself does for a client shows
* rank: 1 to 64, 8 clients of 64 examples of 16 tokens
* length: 16 to 512 tokens, as many tokens in all; the longest that the base takes
* clients per pass: 1 to 64, 64 clients of 16 examples of 16 tokens
"""

import json
import os
import sys
import time
from functools import partial
from pathlib import Path

import numpy

from fedlora.app.run.progress import quiet_libraries
from fedlora.core.machine import cores
from fedlora.core.rounds import Client, Order
from fedlora.federation.executor import Inline, Threads
from fedlora.federation.local import LocalTransport
from fedlora.federation.pipeline import Pipeline
from fedlora.methods.fedit import FedIT
from fedlora.training.bases.loading import load_base
from fedlora.training.data.split import Owned
from fedlora.training.encoding.tokens import Tokens
from fedlora.training.forward.packed import fastest_forward
from fedlora.training.generated.encoder import generated_base
from fedlora.training.loop import ModelTrainer
from fedlora.training.settings import TrainSettings
from fedlora.training.tasks.classification import Classification

LABELS = tuple(f"label {number}" for number in range(20))


def seconds(base, clients, examples, length, rank, batch=16, client_batch=1, workers=None):
    """A round of FedIT: orders through bytes, training, replies through bytes; no aggregation."""
    draw = numpy.random.default_rng(0)
    count = clients * examples
    ids = draw.integers(5, base.model.config.vocab_size, count * length).astype(numpy.int32)
    tokens = Tokens(ids, numpy.arange(count + 1) * length, draw.integers(0, len(LABELS), count))
    owned = {
        f"c{number:05d}": Owned(own, own[:0], own[:0])
        for number, own in enumerate(numpy.arange(count).reshape(clients, examples))
    }
    method, spec = FedIT(), base.spec(rank, 2.0, head="shared")
    forward = fastest_forward(base, spec, tokens_a_pass=10**9 if client_batch > 1 else 1024)
    settings = TrainSettings(epochs=1, batch_size=batch)
    parts = {"train": tokens, "test": tokens, "owned": owned}
    trainer = ModelTrainer(forward, Classification(base.labels), settings, **parts, seed=0, rounds=2)
    members = [Client(name, examples, rank) for name in owned]
    executor = partial(Threads, count=workers) if workers else Inline
    transport = LocalTransport(members, Pipeline(method), trainer, client_batch=client_batch, executor=executor)
    state = method.init(spec, 0)
    payload = {"adapter": method.dispatch(state, members[0], 1), "head": trainer.head}

    def round(who):
        started = time.perf_counter()
        for _ in transport.exchange([Order("train", 1, client, payload) for client in who]):
            pass
        return time.perf_counter() - started

    round(members[: max(1, min(len(members), 2 * client_batch))])
    return round(members)


def main(name, out):
    quiet_libraries()
    base = load_base(name, LABELS)
    small = load_base(str(generated_base(width=32, layers=2, steps=50)), LABELS)
    longest = base.model.config.max_position_embeddings
    workers = cores()
    curves = {"clients": {}, "rank": {}, "length": {}, "clients per pass": {}}
    for clients in (10, 100, 1000, 10_000):
        curves["clients"][clients] = seconds(small, clients, 4, 8, 4, batch=4, workers=workers) / clients
    for rank in (1, 2, 4, 8, 16, 32, 64):
        curves["rank"][rank] = seconds(base, 8, 64, 16, rank, workers=workers) / (8 * 64)
    for length in (16, 32, 64, 128, 256, 512):
        if length <= longest:
            examples = 2048 // length
            curves["length"][length] = seconds(base, 4, examples, length, 8, workers=workers) / (4 * examples)
    for client_batch in (1, 2, 4, 8, 16, 32, 64):
        curves["clients per pass"][client_batch] = seconds(base, 64, 16, 16, 8, client_batch=client_batch) / (64 * 16)
    for curve, points in curves.items():
        print(curve, {x: f"{1000 * y:.2f} ms" for x, y in points.items()}, flush=True)
    told = {
        "cores": workers,
        "load_at_the_end": os.getloadavg()[0],
        "unit": "seconds a client (clients), seconds an example (the others)",
        "curves": curves,
    }
    Path(out).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
