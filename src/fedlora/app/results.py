# SPDX-License-Identifier: Apache-2.0
"""What a run leaves besides its rounds: what it depends on, who owned what, the summary, the adapters."""

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from fedlora.app.build import Simulation
from fedlora.app.card import model_card
from fedlora.core.adapter import AdapterSpec, Start, effective
from fedlora.core.parcel import cast_floats
from fedlora.core.rounds import Client
from fedlora.federation.files import write_json, write_whole
from fedlora.federation.journal import client_folder
from fedlora.federation.server import Server, global_model
from fedlora.training.peft_files import fits_peft, write_model, write_peft


def environment(simulation: Simulation) -> dict[str, object]:
    """What a run depends on besides its config."""
    packages = ("fedlora", "torch", "transformers", "peft", "datasets", "flwr-datasets", "safetensors", "numpy")
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in packages},
        "threads": torch.get_num_threads(),
        "scale": simulation.spec.scale,
        "kind": simulation.spec.kind,
        "base": simulation.base.name,
        "base_fingerprint": simulation.base.fingerprint,
        "tokenizer_fingerprint": simulation.base.tokenizer_fingerprint,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def ownership(simulation: Simulation) -> dict[str, object]:
    """The contents of `split.json`: of every client, how many examples of each label it owns."""
    dataset, clients = simulation.dataset, {}
    for client, own in simulation.split.clients.items():
        counts = dataset.label_counts(own.train)
        clients[client] = {"labels": counts, "validation": len(own.validation), "test": len(own.test)}
    return {
        "labels": list(dataset.labels),
        "clients": clients,
        "left_out_clients": list(simulation.split.empty),
        "unused_examples": simulation.split.unused,
    }


def summarise(simulation: Simulation, rounds: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    """The contents of `summary.json`, from the lines of `rounds.jsonl`."""
    config, federation = simulation.config, simulation.federation
    last: Mapping[str, Any] = next((line for line in reversed(rounds) if line["personal"]), {})
    sums = [
        "bytes_up",
        "bytes_down",
        "overhead_bytes",
        "head_bytes_up",
        "head_bytes_down",
        "parameters_up",
        "evaluation_bytes",
    ]
    return {
        "method": config.method.name,
        "name": config.run.name,
        "rounds": len(rounds),
        "scale": simulation.spec.scale,
        "rank": simulation.spec.rank,
        "head": federation.head_mode,
        "global": last.get("global"),
        "personal": last.get("personal"),
        **{key: sum(line[key] for line in rounds) for key in sums},
        "seed": config.run.seed,
        "data": simulation.dataset.origin,
        "base": simulation.base.name,
        "labels": len(simulation.dataset.labels),
        "clients": len(simulation.split.clients),
        "left_out_clients": list(simulation.split.empty),
        "unused_examples": simulation.split.unused,
    }


def export_adapters(simulation: Simulation, server: Server, folder: Path, summary: Mapping[str, object]) -> None:
    """Write `adapter/`, and `clients/ID/adapter/` where a client's model is not the global one.

    What no adapter can hold (full fine-tuning, a fold that has become dense) goes to `model/` as a whole model.
    """
    federation = simulation.federation
    model = global_model(federation, server)
    if model is not None:
        export(simulation, model, folder / place(simulation, model), summary)
    for client in sorted(federation.transport.roster(), key=lambda own: own.id):
        own = client_model(simulation, server, client)
        if model is not None and _same_model(model, own, simulation.spec):
            continue
        home = folder if federation.method.pooled else client_folder(folder, client.id)
        export(simulation, own, home / place(simulation, own), summary, client)


def place(simulation: Simulation, model: Start) -> str:
    """The folder's name of what an adapter can hold, or of a whole model."""
    return "adapter" if fits_peft(model, simulation.spec) else "model"


def client_model(simulation: Simulation, server: Server, client: Client) -> Start:
    """What a client would evaluate now: dispatched, with what it kept, under its head."""
    federation = simulation.federation
    method, spec = federation.method, federation.spec
    known = Client(client.id, client.examples, client.rank, server.seen.get(client.id))
    known = Client(client.id, client.examples, method.rank(server.state, known), known.seen)
    memory = simulation.transport.memories.latest(client.id)
    sent = cast_floats(method.dispatch(server.state, known, server.round + 1), federation.spec.wire)
    start = method.receive(cast_floats(sent, torch.float32), memory.kept if memory else {}, known, spec)
    heads = {"shared": server.head, "private": memory.head if memory else {}, "frozen": {}}
    return Start(start.adapter.with_dense(heads[federation.head_mode]), start.fold)


def _same_model(one: Start, other: Start, spec: AdapterSpec) -> bool:
    """Whether two models compute the same: equal updates of every map, equal heads."""
    left, right = (effective(start, spec) for start in (one, other))
    heads = (one.adapter.dense, other.adapter.dense)
    same_head = heads[0].keys() == heads[1].keys() and all(heads[0][n].equal(heads[1][n]) for n in heads[0])
    return same_head and all(left[module].equal(right[module]) for module in left)


def export(
    simulation: Simulation, model: Start, folder: Path, summary: Mapping[str, object], client: Client | None = None
) -> None:
    """Write one PEFT directory with what its reader needs to know beside it."""
    base = simulation.base
    head = dict(model.adapter.dense) or dict(simulation.trainer.head)
    write = write_peft if fits_peft(model, simulation.spec) else write_model
    write(folder, model, simulation.spec, base, head)
    about = {
        "labels": label_names(simulation, client),
        "base": base.name,
        "base_fingerprint": base.fingerprint,
        "tokenizer_fingerprint": base.tokenizer_fingerprint,
        "kind": simulation.spec.kind if fits_peft(model, simulation.spec) else "dense",
        "scale": simulation.spec.scale,
        "method": simulation.config.method.name,
        "client": client.id if client else None,
    }
    write_json(folder / "fedlora.json", about)
    write_whole(folder / "README.md", model_card(about, summary).encode())


def label_names(simulation: Simulation, client: Client | None) -> list[str]:
    """The labels in the order of a model's scores: a client may have numbered them its own way."""
    labels = list(simulation.base.labels)
    names = simulation.split.clients[client.id].names if client and client.id in simulation.split.clients else None
    if names is None:
        return labels
    called = dict(zip(names.tolist(), labels, strict=True))
    return [called[number] for number in range(len(labels))]
