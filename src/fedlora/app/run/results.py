# SPDX-License-Identifier: Apache-2.0
"""What a run leaves besides its rounds: what it depends on, who owned what, the summary, the adapters."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fedlora.app.build.inputs import inputs
from fedlora.app.build.simulation import Experiment, Simulation
from fedlora.app.build.trainer import answer_metrics, describe_task, make_task, train_settings
from fedlora.app.config.paths import short_class_name
from fedlora.app.finished.asking import asked_how
from fedlora.app.finished.card import model_card
from fedlora.core.adapter import AdapterSpec, Start, effective
from fedlora.core.payload import cast_floats
from fedlora.core.rounds import Client
from fedlora.federation.files import write_json, write_whole
from fedlora.federation.journal import client_folder
from fedlora.federation.same_run import ENVIRONMENT, SPLIT
from fedlora.federation.server import Server, global_model
from fedlora.training.bases.model import Base
from fedlora.training.bases.model_files import same_tokenizer, write_model, write_tokenizer
from fedlora.training.bases.peft_files import fits_peft, write_peft
from fedlora.training.data.dialogues import Dialogues
from fedlora.training.data.split import Split

MODEL_FOLDERS = ("adapter", "model")
"""Where a model is kept: as an adapter, or as a whole model."""


def environment(experiment: Experiment) -> dict[str, object]:
    """What a run depends on besides its config, and what its tables show that the config leaves to the method."""
    train = train_settings(experiment.config, experiment.federation.method)
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "scale": experiment.spec.scale,
        "kind": experiment.spec.kind,
        "head_parameters": sum(part.numel() for part in experiment.base.head.values()),
        "method": experiment.federation.method.name,
        "learning_rates": {"A": train.lr, "B": train.lr * (train.lr_b_ratio or 1.0)},
        "modules": list(experiment.spec.shapes),
        "task": describe_task(make_task(experiment.config, experiment.base.labels), _signatures(experiment)),
        **inputs(experiment.config, experiment.base, experiment.digests)[ENVIRONMENT],
    }


def _signatures(experiment: Experiment) -> dict[str, str]:
    """Of every metric of generated answers, what its values were computed with; empty without such."""
    metrics = answer_metrics(experiment.config, _references(experiment))
    return {metric.metric.name: metric.signature for metric in metrics}


def _references(experiment: Experiment) -> int | None:
    """Right answers of each example that is scored; None: their number varies, or is not known here."""
    if not isinstance(experiment, Simulation):
        return None
    dataset = experiment.dataset
    scored = dataset.test if experiment.config.evaluate.part == "test" else dataset.train
    counts = {len(example.answers) for example in scored.examples} if isinstance(scored, Dialogues) else set()
    return counts.pop() if len(counts) == 1 else None


def ownership(experiment: Experiment) -> dict[str, object]:
    """The contents of `split.json`: digests of the examples; of every client, how many of each label or kind it owns.

    Sites do not tell, so of a deployment it names nobody.
    """
    clients, unseen = {}, {}
    if isinstance(experiment, Simulation):
        for client, owned in experiment.split.clients.items():
            counts = experiment.dataset.label_counts(owned.train)
            clients[client] = {"labels": counts, "validation": len(owned.validation), "test": len(owned.test)}
        for client, owned in experiment.split.unseen.items():
            unseen[client] = {"labels": experiment.dataset.label_counts(owned.test)}
    return {
        **inputs(experiment.config, experiment.base, experiment.digests)[SPLIT],
        **_kinds(experiment),
        "clients": clients,
        "left_out_clients": list(experiment.split.empty),
        "unused_examples": experiment.split.unused,
        **({"unseen": unseen} if unseen else {}),
        **_natural(experiment.split),
    }


def _kinds(experiment: Experiment) -> dict[str, list[str]]:
    """The names of the kinds of examples that a language model learns, where the data name such."""
    if not isinstance(experiment, Simulation) or not writes_text(experiment.base):
        return {}
    return {"kinds": list(experiment.dataset.labels)} if experiment.dataset.labels else {}


def summarise(experiment: Experiment, rounds: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    """The contents of `summary.json`, from the lines of `rounds.jsonl`."""
    config, federation = experiment.config, experiment.federation
    last: Mapping[str, Any] = next((line for line in reversed(rounds) if line["personal"]), {})
    spreads = {key: last[key] for key in ("over_clients", "unseen_clients") if key in last}
    sums = [
        "bytes_up",
        "bytes_down",
        "overhead_bytes",
        "head_bytes_up",
        "head_bytes_down",
        "parameters_up",
        "steps",
        "evaluation_bytes",
    ]
    return {
        "method": short_class_name(config.method.name),
        "name": config.run.name,
        "rounds": len(rounds),
        "scale": experiment.spec.scale,
        "rank": experiment.spec.rank,
        **({"head": federation.head_mode} if experiment.head else {}),
        "global": last.get("global"),
        "personal": last.get("personal"),
        **{key: sum(line.get(key, 0) for line in rounds) for key in sums},
        "seed": config.run.seed,
        "data": experiment.origin,
        "base": experiment.base.name,
        **({} if writes_text(experiment.base) else {"labels": len(experiment.base.labels)}),
        "clients": len(federation.transport.roster()),
        "left_out_clients": list(experiment.split.empty),
        "unused_examples": experiment.split.unused,
        **spreads,
        **_natural(experiment.split),
    }


def _natural(split: Split) -> dict[str, object]:
    """What is told of natural clients alone, and only where there is such."""
    return {"small_clients": len(split.small)} if split.small else {}


def export_adapters(experiment: Experiment, server: Server, folder: Path, summary: Mapping[str, object]) -> None:
    """Write `adapter/`, and `clients/ID/adapter/` where a client's model is not the global one and is known here.

    What no adapter can hold (full fine-tuning, a dense merged update) goes to `model/` as a whole model.
    """
    model = global_model(experiment.federation, server)
    if model is not None:
        export(experiment, model, folder / place(experiment, model), summary)
    if isinstance(experiment, Simulation):
        _export_personal(experiment, model, server, folder, summary)


def _export_personal(
    simulation: Simulation, model: Start | None, server: Server, folder: Path, summary: Mapping[str, object]
) -> None:
    federation, adapters = simulation.federation, []
    for client in sorted(federation.transport.roster(), key=lambda member: member.id):
        personal = client_model(simulation, server, client)
        if model is not None and same_model(model, personal, simulation.spec):
            continue
        home = folder if federation.pipeline.facts.centralized else client_folder(folder, client.id)
        target = home / place(simulation, personal)
        _export(simulation, personal, target, summary, client)
        if target.name == MODEL_FOLDERS[0]:
            adapters.append(target)
    if adapters and writes_text(simulation.base):
        files = write_tokenizer(adapters[0], simulation.base.tokenizer)
        for other in adapters[1:]:
            same_tokenizer(other, files)


def place(experiment: Experiment, model: Start) -> str:
    """The folder's name of what an adapter can hold, or of a whole model."""
    return MODEL_FOLDERS[0 if fits_peft(model, experiment.spec) else 1]


def client_model(simulation: Simulation, server: Server, client: Client) -> Start:
    """What a client would evaluate now: dispatched, with what it kept, under its head."""
    federation = simulation.federation
    method, spec = federation.method, federation.spec
    known = replace(client, last_seen_round=server.last_seen_rounds.get(client.id))
    known = replace(known, rank=method.rank(server.state, known))
    client_state = simulation.client_states.latest(client.id)
    sent = cast_floats(method.dispatch(server.state, known, server.round + 1), federation.spec.wire)
    start = method.receive(cast_floats(sent, torch.float32), client_state.kept if client_state else {}, known, spec)
    heads = {"shared": server.state.head, "private": client_state.head if client_state else {}, "frozen": {}}
    return Start(start.adapter.with_dense(heads[federation.head_mode]), start.merged)


def same_model(one: Start, other: Start, spec: AdapterSpec) -> bool:
    """Whether two models compute the same: equal updates of every map, equal heads."""
    left, right = (effective(start, spec) for start in (one, other))
    heads = (one.adapter.dense, other.adapter.dense)
    same_head = heads[0].keys() == heads[1].keys() and all(heads[0][n].equal(heads[1][n]) for n in heads[0])
    return same_head and all(left[module].equal(right[module]) for module in left)


def export(
    experiment: Experiment, model: Start, folder: Path, summary: Mapping[str, object], client: Client | None = None
) -> None:
    """Write one PEFT directory, or a whole model, with what its reader needs to know beside it."""
    _export(experiment, model, folder, summary, client)
    if writes_text(experiment.base) and fits_peft(model, experiment.spec):  # a whole model brings it along
        write_tokenizer(folder, experiment.base.tokenizer)


def _export(
    experiment: Experiment, model: Start, folder: Path, summary: Mapping[str, object], client: Client | None
) -> None:
    """The same; an adapter without its tokenizer."""
    base = experiment.base
    head = dict(model.adapter.dense) or dict(experiment.head)
    write = write_peft if fits_peft(model, experiment.spec) else write_model
    write(folder, model, experiment.spec, base, head)
    about: dict[str, object] = {
        "task": base.task_type,
        "labels": label_names(experiment, client),
        "base": base.source,
        "base_fingerprint": base.fingerprint,
        "tokenizer_fingerprint": base.tokenizer_fingerprint,
        "kind": experiment.spec.kind if fits_peft(model, experiment.spec) else "dense",
        "scale": experiment.spec.scale,
        "method": short_class_name(experiment.config.method.name),
        "client": client.id if client else None,
    }
    if writes_text(base):
        about["asked"] = asking(experiment)
    write_json(folder / "fedlora.json", about)
    card = model_card(about, summary, experiment.federation.scorer.scoring)
    write_whole(folder / "README.md", card.encode())


def writes_text(base: Base) -> bool:
    """Whether this is a language model, and no classifier."""
    return base.task_type == "CAUSAL_LM"


def asking(experiment: Experiment) -> dict[str, object] | None:
    """How the run's language model is to be asked, see `asked_how`."""
    here = experiment.dataset.train if isinstance(experiment, Simulation) else None
    return asked_how(experiment.config, experiment.base, here)


def label_names(experiment: Experiment, client: Client | None) -> list[str]:
    """What the logits of the global model, or of a client's, stand for."""
    owned = experiment.split.clients.get(client.id) if client else None
    return make_task(experiment.config, experiment.base.labels).names(owned)
