"""How a case is played on the code as it is now. An adapter has one function, `play`."""

import json
import tempfile
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import torch
from capture import Recorder
from case import BASES, TEXTS, Case
from cases import CASES
from events_after import Planned, Recording, Troubled, forget
from semantic_after import (
    record_export,
    record_memory,
    record_round,
    record_server,
)
from special_after import SPECIAL

from fedlora.app.build.simulation import Resources, Simulation, build, load
from fedlora.app.build.trainer import make_task, train_settings
from fedlora.app.config.schema import Config, make_config
from fedlora.app.config.sections import tree_of
from fedlora.app.finished.predict import predict
from fedlora.app.run.results import client_model, export_adapters, summarise
from fedlora.app.run.run import Run
from fedlora.core.adapter import Start
from fedlora.errors import RunFolderError
from fedlora.federation.client_states import ClientStates
from fedlora.federation.executor import Threads
from fedlora.federation.local import LocalTransport
from fedlora.federation.record import RoundRecord, round_line
from fedlora.federation.server import global_model
from fedlora.federation.transport import Transport
from fedlora.training.forward.padded import PaddedForward
from fedlora.training.generated.encoder import generated_base
from fedlora.training.loop import ModelTrainer


def play(case: Case, out: Recorder) -> None:
    """Run a case and record all of it.

    Raises:
        Exception: whatever the run raised, unless the case says that it ends with an error.
    """
    with tempfile.TemporaryDirectory() as folder:
        _play(case, out, Path(folder))


def _play(case: Case, out: Recorder, folder: Path) -> None:
    config = _config(case, folder)
    simulation, planned = _simulation(case, config, out)
    _record_begin(out.under("begin"), simulation)
    try:
        simulation, run, lines = _rounds(case, config, simulation, planned, out, folder / "run")
    except Exception as error:
        if case["ends"] != "error":
            raise
        out.text("outcome", f"{type(error).__name__}: {error}")
        return
    out.text("outcome", "finished")
    _record_logits(out.under("logits"), simulation, run, config)
    if "folder" not in case:
        summary = summarise(simulation, lines)
        export_adapters(simulation, run.server, folder / "run", summary)
    else:
        _record_predictions(out.under("predict"), simulation, folder / "run")
    record_export(out.under("export"), folder / "run")


def _rounds(
    case: Case, config: Config, simulation: Simulation, planned: Planned, out: Recorder, folder: Path
) -> tuple[Simulation, Run, list[dict[str, object]]]:
    """All rounds; with a folder the run is left after the case's round, and another goes on with it."""
    lines = []
    run = Run(simulation, folder if "folder" in case else None)
    simulation = _simulated(run)
    record_server(out.under("round0", "server"), simulation.federation, run.server)
    for record in run:
        _record_round(out, simulation, run, record)
        lines.append(round_line(record))
        forget(simulation, planned, record.round)
        if record.round == case.get("folder"):
            break
    if "folder" in case:
        simulation, _ = _simulation(case, config, out)
        run = Run(simulation, folder, resume=True)
        simulation = _simulated(run)
        for record in run:
            _record_round(out, simulation, run, record)
    return simulation, run, lines


# ------------------------------------------------------------------------------------------------ making


@cache
def _base(name: str) -> str:
    return str(generated_base(**BASES[name]))


def _config(case: Case, folder: Path) -> Config:
    tree = {section: dict(keys) for section, keys in case["config"].items()}
    tree["model"]["base"] = _base(tree["model"]["base"])
    name = tree["method"]["name"]
    if name in SPECIAL:
        tree["method"]["name"] = f"{Path(__file__).with_name('special_after.py')}:{SPECIAL[name]}"
    if "start" in case:
        (source,) = [other for other in CASES if other["name"] == case["start"]]
        _play(source, Recorder(), folder / "start")
        tree["adapter"]["start"] = str(folder / "start" / "run" / "adapter")
    if "block" in tree.get("clients", {}):
        tree["clients"]["client_batch"] = tree["clients"].pop("block")
    stages = [{"name": stage, **fields} for stage, fields in case["wrap"]]
    return make_config({**tree, "stage": stages})


_loaded: dict[str, Resources] = {}


def _resources(config: Config) -> Resources:
    """Loaded once for all cases that have data, split, base and seed in common."""
    tree = tree_of(config)
    maps = [tree["adapter"][key] for key in ("targets", "layers")]
    key = json.dumps([tree["data"], tree["split"], tree["model"], maps, tree["run"]["seed"]])
    if key not in _loaded:
        _loaded[key] = load(config)
    return _loaded[key]


def _simulation(case: Case, config: Config, out: Recorder) -> tuple[Simulation, Planned]:
    """The simulation of a config, with the case's trainer, and with a transport that records and plays the events."""
    resources = _resources(config)
    simulation = build(config, resources, workers=1)
    roster = sorted(simulation.federation.transport.roster(), key=lambda client: client.id)
    planned = frozenset(
        (event, round, roster[place].id) for event, round, place in case["events"] if place < len(roster)
    )
    pipeline, trainer = simulation.federation.pipeline, simulation.trainer
    if case["trainer"] == "plain":
        trainer = ModelTrainer(
            PaddedForward(simulation.base, simulation.spec),
            make_task(config, simulation.base.labels),
            train_settings(config, pipeline.method),
            train=resources.train,
            test=resources.test,
            owned=simulation.split.clients,
            seed=config.run.seed,
            rounds=config.run.rounds,
        )

    def connect(states: ClientStates) -> Transport:
        inner = LocalTransport(
            roster,
            pipeline,
            Troubled(trainer, planned),
            client_batch=config.clients.client_batch or 1,
            executor=partial(Threads, count=case.get("workers", 1)),
            client_states=states,
        )
        return Recording(inner, out, planned)

    federation = replace(simulation.federation, transport=connect(simulation.client_states), scorer=trainer)
    if any(event == "lost reply" for event, _, _ in planned):  # at the old commit a lost reply was no failure
        federation = replace(federation, plan=replace(federation.plan, quorum=0))
    return replace(simulation, trainer=trainer, connect=connect, federation=federation), planned


def _simulated(run: Run) -> Simulation:
    """What a run runs, with the clients' states where it keeps them."""
    assert isinstance(run.experiment, Simulation)
    return run.experiment


def _states(simulation: Simulation) -> ClientStates:
    """Where the clients' states are, also after some were taken away."""
    transport = simulation.federation.transport
    assert isinstance(transport, Recording)
    assert isinstance(transport.inner, LocalTransport)
    return transport.inner.client_states


# ---------------------------------------------------------------------------------------------- recording


def _record_begin(out: Recorder, simulation: Simulation) -> None:
    spec, base = simulation.spec, simulation.base
    out.text("base", base.fingerprint)
    out.text("tokenizer", base.tokenizer_fingerprint)
    out.text("head_mode", simulation.federation.head_mode)
    out.score("scale", spec.scale)
    out.count("rank", spec.rank)
    out.under("shapes").tree({module: list(shape) for module, shape in spec.shapes.items()})
    out.under("head").tensors(simulation.head)
    if spec.projection is not None:
        out.under("projection").tensors({"A": spec.projection.A, "B": spec.projection.B})
    for client, owned in simulation.split.clients.items():
        place = out.under(client)
        for part in ("train", "validation", "test"):
            place.tensor(part, torch.from_numpy(getattr(owned, part)))
        if owned.label_permutation is not None:
            place.tensor("label_permutation", torch.from_numpy(owned.label_permutation))


def _record_round(out: Recorder, simulation: Simulation, run: Run, record: RoundRecord) -> None:
    place = out.under(f"round{record.round}")
    record_round(place.under("record"), record)
    record_server(place.under("server"), simulation.federation, run.server)
    for client in simulation.federation.transport.roster():
        record_memory(place.under(client.id), _states(simulation).latest(client.id))


def _record_logits(out: Recorder, simulation: Simulation, run: Run, config: Config) -> None:
    base, spec = simulation.base, simulation.spec
    longest = config.model.max_length
    batch = base.tokenizer(list(TEXTS), padding=True, truncation=True, max_length=longest, return_tensors="pt")
    models: dict[str, Start | None] = {"global": global_model(simulation.federation, run.server)}
    for client in simulation.federation.transport.roster():
        models[client.id] = client_model(simulation, run.server, client)
    for name, model in models.items():
        if model is None:
            out.text(name, "no model")
            continue
        head = dict(model.adapter.dense) or dict(simulation.trainer.head)
        whole = replace(model, adapter=model.adapter.with_dense(head))
        with torch.inference_mode():
            out.tensor(name, base.logits(batch["input_ids"], batch["attention_mask"], whole, spec))


def _record_predictions(out: Recorder, simulation: Simulation, folder: Path) -> None:
    for client in (None, *(member.id for member in simulation.federation.transport.roster())):
        try:
            found = predict(folder, TEXTS, client)
        except RunFolderError:
            continue
        out.under(client or "global").tree([dict(labels) for labels in found])
