# SPDX-License-Identifier: Apache-2.0
"""FedIT, FlexLoRA and LoRA-A2 on BANKING77 in the setting of an independent reference in plain PyTorch.

2,000 training examples, every fifth test example, 10 clients, per class Dirichlet(0.1) without
self-balancing, MiniLM without dropout, six maps a layer, logits = first token's vector times W^T with a
frozen W ~ N(0, 0.1^2) (no bias, no pooler), AdamW 5e-4 without decay, batch 16, one epoch, scale 8,
rank 2; LoRA-A2 with r_G 16, budget 2 and B at five times the rate. The reference's accuracies after 4 and
12 rounds (other seeds): FedIT 20 / 59 %, FlexLoRA 21 / 59 %, LoRA-A2 35 / 69 %.

    python benchmarks/sanity.py DATA BASE METHOD OUT.json [SEED]
"""

import json
import platform
import sys
from dataclasses import replace
from pathlib import Path

import numpy
import torch
from torch import nn

from fedlora.core.rounds import Client
from fedlora.core.seeds import stream_seed
from fedlora.federation.local import LocalTransport
from fedlora.federation.pipeline import Pipeline
from fedlora.federation.server import Federation, Plan, begin, federate
from fedlora.federation.settings import EvaluateSettings
from fedlora.methods import find_method
from fedlora.training.bases.model import make_base
from fedlora.training.data.examples import take_some
from fedlora.training.data.labelled import Columns, from_files
from fedlora.training.data.split import SplitSettings, split
from fedlora.training.encoding.tokens import tokenise
from fedlora.training.forward.padded import PaddedForward
from fedlora.training.loop import ModelTrainer
from fedlora.training.settings import TrainSettings
from fedlora.training.tasks.classification import Classification

ROUNDS, SCALE, RANK = 12, 8.0, 2


class FirstToken(nn.Module):
    """The first token's vector, in place of BERT's pooler."""

    def forward(self, hidden):
        return hidden[:, 0]


def sanity_base(folder, labels, seed):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(labels))
    model.bert.pooler = FirstToken()
    model.classifier = nn.Linear(model.config.hidden_size, len(labels), bias=False)
    generator = torch.Generator().manual_seed(stream_seed(seed, "head"))
    with torch.no_grad():
        model.classifier.weight.normal_(0.0, 0.1, generator=generator)
    return make_base(model, AutoTokenizer.from_pretrained(folder), Path(folder).name, labels)


def main(data, folder, name, out, seed=0):
    whole = from_files(Path(data), Columns(), 0.2, seed)
    dataset = take_some(whole, 2000, None, seed)
    dataset = replace(dataset, test=whole.test.take(numpy.arange(0, len(whole.test), 5)))
    base = sanity_base(folder, dataset.labels, seed)
    dealt = split(dataset.train, dataset.test, SplitSettings("dirichlet", 10, 0.1, balanced=False), seed)
    method = find_method(name)()
    spec = base.spec(RANK, SCALE, head="frozen")
    trainer = ModelTrainer(
        PaddedForward(base, spec),
        Classification(dataset.labels),
        TrainSettings(lr=5e-4, lr_b_ratio=method.facts.lr_b_ratio),
        train=tokenise(dataset.train, base.tokenizer, 128),
        test=tokenise(dataset.test, base.tokenizer, 128),
        owned=dealt.clients,
        seed=seed,
        rounds=ROUNDS,
    )
    clients = [Client(client, len(own.train), RANK) for client, own in dealt.clients.items()]
    plan = Plan(ROUNDS, seed, evaluate=EvaluateSettings(every=4))
    pipeline = Pipeline(method)
    federation = Federation(pipeline, spec, LocalTransport(clients, pipeline, trainer), plan, trainer)
    result = {
        "method": name,
        "seed": seed,
        "scale": SCALE,
        "rank": RANK,
        "examples": [client.examples for client in clients],
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "rounds": [],
    }
    parameters = 0
    for _, record in federate(federation, begin(federation, trainer.head)):
        parameters += record.parameters_up
        line = {"round": record.round, "loss": record.loss, "parameters_up": parameters, **record.seconds}
        if record.global_score:
            line["accuracy"] = record.global_metrics["accuracy"]
            line["personal"] = record.personal.mean
        result["rounds"].append(line)
        Path(out).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(name, line, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:5], seed=int(sys.argv[5]) if len(sys.argv) > 5 else 0)
