"""How a case is played on the code as of commit 7702f80. An adapter has one function, `play`."""

import json
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from capture import Recorder
from case import BASES, TEXTS, Case
from cases import CASES
from events_before import Planned, Recording, Troubled, forget
from semantic_before import (
    record_export,
    record_memory,
    record_round,
    record_server,
)
from special_before import SPECIAL

from fedlora.app.build import Ingredients, Simulation, build, load
from fedlora.app.config import Config, make_config
from fedlora.app.predict import predict
from fedlora.app.results import client_model, export_adapters, summarise
from fedlora.app.run import Run
from fedlora.app.trainer import train_settings
from fedlora.core.adapter import Start
from fedlora.errors import RunFolderError
from fedlora.federation.local import LocalTransport
from fedlora.federation.record import RoundRecord, round_line
from fedlora.federation.server import global_model
from fedlora.training.generated import generated_base
from fedlora.training.trainer import PlainTrainer


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
        tree["method"]["name"] = f"{Path(__file__).with_name('special_before.py')}:{SPECIAL[name]}"
    if "start" in case:
        (source,) = [other for other in CASES if other["name"] == case["start"]]
        _play(source, Recorder(), folder / "start")
        tree["adapter"]["start"] = str(folder / "start" / "run" / "adapter")
    wraps = [{"name": wrapper, **fields} for wrapper, fields in case["wrap"]]
    return make_config({**tree, "wrap": wraps})


_loaded: dict[str, Ingredients] = {}


def _ingredients(config: Config) -> Ingredients:
    """Loaded once for all cases that have data, split, base and seed in common."""
    tree = config.model_dump(mode="json")
    maps = [tree["adapter"][key] for key in ("targets", "layers")]
    key = json.dumps([tree["data"], tree["split"], tree["model"], maps, tree["run"]["seed"]])
    if key not in _loaded:
        _loaded[key] = load(config)
    return _loaded[key]


def _simulation(case: Case, config: Config, out: Recorder) -> tuple[Simulation, Planned]:
    """The simulation of a config, with the case's trainer, and with a transport that records and plays the events."""
    ingredients = _ingredients(config)
    simulation = build(config, ingredients, workers=1)
    roster = sorted(simulation.transport.roster(), key=lambda client: client.id)
    planned = frozenset(
        (event, round, roster[place].id) for event, round, place in case["events"] if place < len(roster)
    )
    method, trainer = simulation.federation.method, simulation.trainer
    if case["trainer"] == "plain":
        trainer = PlainTrainer(
            simulation.base,
            simulation.spec,
            train_settings(config, method),
            train=ingredients.train,
            test=ingredients.test,
            owned=simulation.split.clients,
            seed=config.run.seed,
            rounds=config.run.rounds,
        )
    inner = LocalTransport(
        roster,
        method,
        Troubled(trainer, planned),
        block=config.clients.block or 1,
        workers=case.get("workers", 1),
    )
    federation = replace(simulation.federation, transport=Recording(inner, out, planned), scorer=trainer)
    return replace(simulation, trainer=trainer, transport=inner, federation=federation), planned


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
        if owned.names is not None:
            place.tensor("label_permutation", torch.from_numpy(owned.names))


def _record_round(out: Recorder, simulation: Simulation, run: Run, record: RoundRecord) -> None:
    place = out.under(f"round{record.round}")
    record_round(place.under("record"), record)
    record_server(place.under("server"), simulation.federation, run.server)
    for client in simulation.transport.roster():
        record_memory(place.under(client.id), simulation.transport.memories.latest(client.id))


def _record_logits(out: Recorder, simulation: Simulation, run: Run, config: Config) -> None:
    base, spec = simulation.base, simulation.spec
    longest = config.model.max_length
    batch = base.tokenizer(list(TEXTS), padding=True, truncation=True, max_length=longest, return_tensors="pt")
    models: dict[str, Start | None] = {"global": global_model(simulation.federation, run.server)}
    for client in simulation.transport.roster():
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
    for client in (None, *(own.id for own in simulation.transport.roster())):
        try:
            found = predict(folder, TEXTS, client)
        except RunFolderError:
            continue
        out.under(client or "global").tree([dict(labels) for labels in found])
