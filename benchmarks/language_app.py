# SPDX-License-Identifier: Apache-2.0
"""A federation of language models on Flower with stock PEFT; needs `flwr[simulation]`.

Every message builds the model and the adapter, loads what the server sent, trains one epoch over the client's batches,
and returns the adapter. The server is Flower's own FedAvg.
"""

import os
import tempfile
from pathlib import Path

import torch


def simulate(parts, start, base, spec, lr, cores):
    """One round; the mean loss a token."""
    os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    here, app, server, told = str(Path(__file__).parent), ClientApp(), ServerApp(), {}
    with tempfile.TemporaryDirectory() as folder:
        for number, batches in enumerate(parts.values()):
            torch.save(batches, Path(folder) / f"{number}.pt")

        @app.train()
        def train(msg: Message, context: Context) -> Message:
            import sys

            sys.path.insert(0, here)
            from language import epoch, stock_model
            from peft import get_peft_model_state_dict, set_peft_model_state_dict

            batches = torch.load(Path(folder) / f"{context.node_config['partition-id']}.pt")
            model = stock_model(base, spec)
            set_peft_model_state_dict(model, msg.content["arrays"].to_torch_state_dict())
            loss, learned = epoch(model, batches, lr)
            metrics = MetricRecord({"loss": loss / learned, "num-examples": learned})
            state = {name: value.detach().clone() for name, value in get_peft_model_state_dict(model).items()}
            return Message(content=RecordDict({"arrays": ArrayRecord(state), "metrics": metrics}), reply_to=msg)

        @server.main()
        def main(grid: Grid, context: Context) -> None:
            strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=len(parts), min_available_nodes=len(parts))
            result = strategy.start(
                grid=grid, initial_arrays=ArrayRecord(start), num_rounds=1, train_config=ConfigRecord({})
            )
            told.update(result.train_metrics_clientapp[1])

        run_simulation(
            server,
            app,
            num_supernodes=len(parts),
            backend_config={"init_args": {"num_cpus": cores}, "client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
        )
    return told["loss"]
