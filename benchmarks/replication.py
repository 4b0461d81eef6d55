# SPDX-License-Identifier: Apache-2.0
"""The diagnostic of the replication-padding paper on real data: what one aggregation does to a rank-20 client.

All clients train one round at rank 5 (their mean is FedIT's). Then one client with a balanced share of the
labels gets rank 20, its new slots fresh rows of A and zero columns of B; everyone trains one epoch, and
the same uploads are aggregated by zero padding and by replication. Scored on the whole test set: the
rank-20 client's own model before aggregation, and what each server would send it back.

    python benchmarks/replication.py DATA BASE OUT.json [LEARNING_RATE]
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy
import torch

from fedlora.core.adapter import Start
from fedlora.core.rounds import Client, FitJob, ScoreJob
from fedlora.core.seeds import numpy_stream
from fedlora.core.update import Update
from fedlora.federation.local import LocalTransport
from fedlora.federation.pipeline import Pipeline
from fedlora.federation.server import Federation, Plan, begin, federate
from fedlora.methods.base import State
from fedlora.methods.fedit import FedIT
from fedlora.methods.replicate import Replicate
from fedlora.methods.zeropad import ZeroPad
from fedlora.training.bases.loading import load_base
from fedlora.training.data.examples import take_some
from fedlora.training.data.labelled import Columns, from_files
from fedlora.training.data.split import Owned, SplitSettings, split
from fedlora.training.encoding.tokens import tokenise
from fedlora.training.forward.padded import PaddedForward
from fedlora.training.loop import ModelTrainer
from fedlora.training.settings import TrainSettings
from fedlora.training.tasks.classification import Classification

LOW, HIGH, SCALE, SEED = 5, 20, 2.0, 0


def owners(dataset):
    """c0 has a balanced tenth of the examples, c1 to c9 a Dirichlet(0.1) share of the rest."""
    order = numpy_stream(SEED, "balanced client").permutation(len(dataset.train))
    mine, rest = numpy.sort(order[: len(order) // 10]), numpy.sort(order[len(order) // 10 :])
    dealt = split(dataset.train.take(rest), dataset.test, SplitSettings("dirichlet", 9, 0.1), SEED)
    parts = [mine, *(rest[own.train] for own in dealt.clients.values())]
    nothing = numpy.zeros(0, dtype=numpy.int64)
    return {f"c{k}": Owned(part, nothing, nothing) for k, part in enumerate(parts)}


def main(data, folder, out, lr=5e-4):
    dataset = take_some(from_files(Path(data), Columns()), 2000, 1000, SEED)
    base = load_base(folder, dataset.labels, seed=SEED)
    tokens = [tokenise(part, base.tokenizer, 128) for part in (dataset.train, dataset.test)]
    owned = owners(dataset)

    def trainer_of(spec):
        forward, settings = PaddedForward(base, spec), TrainSettings(lr=lr)
        parts = {"train": tokens[0], "test": tokens[1], "owned": owned}
        return ModelTrainer(forward, Classification(dataset.labels), settings, **parts, seed=SEED, rounds=2)

    spec = base.spec(LOW, SCALE, head="shared")
    trainer = trainer_of(spec)
    clients = [Client(name, len(own.train), LOW) for name, own in owned.items()]
    plain = Pipeline(FedIT())
    equal = Federation(plain, spec, LocalTransport(clients, plain, trainer), Plan(1, SEED), trainer)
    server, first = next(federate(equal, begin(equal, trainer.head)))
    print("round 1, all at rank 5:", first.global_metrics["accuracy"], flush=True)

    mixed = replace(spec, rank=HIGH, start=server.state.adapter)
    trainer = trainer_of(mixed)
    state = Replicate().init(mixed, SEED)
    ranked = [replace(client, rank=HIGH if client.id == "c0" else LOW) for client in clients]
    updates, heads, own = [], [], None
    for client in ranked:
        start = Replicate().receive(Replicate().dispatch(state, client, 2), {}, client, mixed)
        fit = Replicate().client(Replicate().dispatch(state, client, 2), {}, client, mixed, 2)
        asked = next(fit)
        asked = replace(asked, start=Start(start.adapter.with_dense(server.state.head)))
        (fitted,) = trainer.fit([FitJob(client.id, 2, asked)])
        own = fitted.start if client.id == "c0" else own
        heads.append((client.examples, fitted.start.adapter.dense))
        sides, _ = Replicate().upload(start, fitted.start, {}, 2)
        updates.append(Update(client, sides))
        assert sides["input"]
    total = sum(n for n, _ in heads)
    head = {name: sum(n * part[name] for n, part in heads) / total for name in server.state.head}

    def score(start):
        return trainer.scoring.headline.of(trainer.score([ScoreJob(None, start)])[0])

    result = {
        "data": Path(data).name,
        "lr": lr,
        "ranks": {client.id: client.rank for client in ranked},
        "examples": {client.id: client.examples for client in ranked},
        "weight_of_the_rank_20_client": ranked[0].examples / total,
        "round 1, all at rank 5": first.global_metrics["accuracy"],
        "rank-20 client before aggregation": score(own),
    }
    for name, method in (("zero padding", ZeroPad()), ("replication", Replicate())):
        after = method.aggregate(State(state.adapter), iter(updates), 2)
        sent = method.receive(method.dispatch(after, ranked[0], 3), {}, ranked[0], mixed).adapter
        result[f"after {name}"] = score(Start(sent.with_dense(head)))
        result[f"after {name}, its own head kept"] = score(Start(sent.with_dense(own.adapter.dense)))
    result["torch"] = torch.__version__
    Path(out).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:4], *map(float, sys.argv[4:5]))
