# SPDX-License-Identifier: Apache-2.0
"""The clients of a simulation, served as its config and this machine's cores allow."""

from collections.abc import Sequence
from functools import partial

import torch

from fedlora.app.config.schema import Config
from fedlora.core.machine import cores
from fedlora.core.rounds import Client, Trainer
from fedlora.federation.client_states import ClientStates
from fedlora.federation.executor import Executor, ThreadEach, Threads, Worker
from fedlora.federation.local import LocalTransport, ThroughBytes
from fedlora.federation.pipeline import Pipeline


def local_transport(
    config: Config,
    clients: Sequence[Client],
    pipeline: Pipeline,
    trainers: Sequence[Trainer],
    *,
    workers: int | None,
    client_states: ClientStates,
) -> LocalTransport:
    """The transport to clients on this machine.

    Args:
        config: of the run.
        clients: the roster.
        pipeline: the method and its stages.
        trainers: own the clients' data, one for each of the config's devices.
        workers: see `fedlora.app.build.simulation.build`.
        client_states: what clients already hold.
    """
    first, *others = trainers

    def on_every_device(worker: Worker) -> Executor:
        return ThreadEach([worker, *(ThroughBytes(pipeline, other) for other in others)])

    return LocalTransport(
        clients,
        pipeline,
        first,
        client_batch=clients_of_a_batch(config),
        executor=on_every_device if others else partial(Threads, count=batches_at_a_time(config, workers)),
        client_states=client_states,
    )


def clients_of_a_batch(config: Config) -> int:
    """How many clients are trained together: on a CPU they gain by cores, on a GPU by company."""
    return config.clients.client_batch or (1 if on_cpu(config) else 16)


def batches_at_a_time(config: Config, workers: int | None) -> int:
    """How many client batches are trained at the same time, one thread each."""
    return 1 if config.train.dropout > 0.0 or not on_cpu(config) else workers or cores()


def on_cpu(config: Config) -> bool:
    """Whether the base computes on the CPU."""
    return torch.device(config.run.devices[0]).type == "cpu"
