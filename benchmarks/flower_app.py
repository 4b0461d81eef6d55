# SPDX-License-Identifier: Apache-2.0
"""A federation on Flower with stock PEFT, as its examples for language models are written; needs `flwr[simulation]`.

Every message builds the model and the adapter, loads what the server sent, trains one epoch over the client's
texts with dynamic padding, and returns adapter and head. The server is Flower's own FedAvg.
"""

import json
import os
import tempfile
from pathlib import Path

import torch


def train_app(folder, base, names, labels, lr, batch):
    from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp

    app = ClientApp()

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        from torch.utils.data import DataLoader
        from transformers import AutoTokenizer, DataCollatorWithPadding

        rows = json.loads((Path(folder) / f"{context.node_config['partition-id']}.json").read_text(encoding="utf-8"))
        tokenizer = AutoTokenizer.from_pretrained(base)
        examples = [
            {"input_ids": tokenizer(text, truncation=True, max_length=128)["input_ids"], "labels": label}
            for text, label in rows
        ]
        loader = DataLoader(examples, batch, shuffle=True, collate_fn=DataCollatorWithPadding(tokenizer))
        model = new_model(base, names, labels)
        load(model, msg.content["arrays"].to_torch_state_dict())
        optimizer = torch.optim.AdamW([own for own in model.parameters() if own.requires_grad], lr, weight_decay=0.0)
        total = 0.0
        for own in loader:
            loss = model(**own).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(own["labels"])
        metrics = MetricRecord({"loss": total / len(rows), "num-examples": len(rows)})
        content = RecordDict({"arrays": ArrayRecord(state(model)), "metrics": metrics})
        return Message(content=content, reply_to=msg)

    return app


def new_model(base, names, labels):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=labels)
    rank, alpha, targets = names
    config = LoraConfig(
        task_type="SEQ_CLS", r=rank, lora_alpha=alpha, target_modules=targets, modules_to_save=["classifier"]
    )
    return get_peft_model(model, config).eval()  # without dropout, as the others here


def state(model):
    from peft import get_peft_model_state_dict

    return {name: own.detach().clone() for name, own in get_peft_model_state_dict(model).items()}


def load(model, values):
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(model, values)


def simulate(simulation, base, lr, batch, cores):
    """One round; the mean loss."""
    os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    from flwr.app import ArrayRecord, ConfigRecord, Context
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    spec, dataset = simulation.spec, simulation.dataset
    names = (spec.rank, spec.scale * spec.rank, list(spec.shapes))
    told = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, own in enumerate(simulation.split.clients.values()):
            rows = [(dataset.train.texts[index], int(dataset.train.labels[index])) for index in own.train]
            (Path(folder) / f"{number}.json").write_text(json.dumps(rows), encoding="utf-8")
        server = ServerApp()
        torch.manual_seed(0)
        start = state(new_model(base, names, len(dataset.labels)))

        @server.main()
        def main(grid: Grid, context: Context) -> None:
            count = len(simulation.split.clients)  # nodes come one by one: wait for all
            strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=count, min_available_nodes=count)
            result = strategy.start(
                grid=grid, initial_arrays=ArrayRecord(start), num_rounds=1, train_config=ConfigRecord({})
            )
            told.update(result.train_metrics_clientapp[1])

        run_simulation(
            server,
            train_app(folder, base, names, len(dataset.labels), lr, batch),
            num_supernodes=len(simulation.split.clients),
            backend_config={"init_args": {"num_cpus": cores}, "client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
        )
    return told["loss"]
