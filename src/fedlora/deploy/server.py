# SPDX-License-Identifier: Apache-2.0
"""The server of a deployed federation: the loop, the run folder and the report are those of a simulation."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedlora.app.build.base import load_named_base
from fedlora.app.build.encoding import encode, test_with_choices
from fedlora.app.build.method import make_pipeline
from fedlora.app.build.simulation import Experiment, adapter_spec, build, plan_of
from fedlora.app.build.trainer import new_trainer
from fedlora.app.build.weights import require_weight, require_weights
from fedlora.app.config.choices import choices_column
from fedlora.app.config.schema import Config
from fedlora.app.run.results import ownership
from fedlora.app.run.run import Run
from fedlora.core.adapter import AdapterSpec
from fedlora.core.rounds import Client
from fedlora.deploy.config import require_deployable, shared_part
from fedlora.deploy.connection import Connection
from fedlora.deploy.remote import RemoteTransport
from fedlora.deploy.runs import new_run_name
from fedlora.deploy.sites import Members, read_members
from fedlora.errors import ConfigError, DataError, RunFolderError
from fedlora.federation.files import append_lines, write_json
from fedlora.federation.journal import SUMMARY
from fedlora.federation.record import RoundRecord
from fedlora.federation.same_run import SPLIT
from fedlora.federation.server import Federation, last_orders
from fedlora.federation.settings import DeploySettings
from fedlora.methods.base import Method
from fedlora.training.bases.model import Base
from fedlora.training.data.dialogue_tables import dialogues_dataset
from fedlora.training.data.digests import example_digests
from fedlora.training.data.labelled import Columns, from_rows
from fedlora.training.data.split import Split
from fedlora.training.data.tables import read_rows
from fedlora.training.encoding.tokens import Tokens, no_tokens

DEPLOYMENT = "deployment.json"
DELIVERIES = "deliveries.jsonl"


def run_server(
    config: Config,
    connection: Connection,
    folder: Path,
    resume: bool = False,
    clock: Callable[[], float] = time.monotonic,
    *,
    tell: Callable[[str], object] = lambda line: None,
) -> Iterator[tuple[RemoteTransport, RoundRecord | None]]:
    """Gather the sites, run the rounds, have every site write its own model.

    Args:
        config: the shared config. Without [deploy] it is a simulation's, whose clients another engine carries.
        connection: carries messages to the sites.
        folder: the run folder.
        resume: go on with the run that the folder holds.
        clock: seconds, for deadlines.
        tell: is given a line about every site that comes, is refused or sends what does not count.

    Yields:
        The remote transport once the sites are there, then the record of every round.

    Raises:
        UserError: with one sentence about what is in the way.
    """
    parts = _simulated(config) if config.deploy is None else _deployed(config, config.deploy)
    before = _before(folder) if resume else {}
    name = str(before["run"]) if "run" in before else new_run_name(config.run.name)

    def check_client(clients: Sequence[Client]) -> None:
        if any(client.rank > parts.spec.rank for client in clients):
            raise ConfigError(f"its rank is {clients[0].rank}, more than the federation's largest ({parts.spec.rank}).")
        for client in clients:
            require_weight(config, client)
        parts.method.check_federation(parts.spec, clients)

    members = _members(config, before)
    remote = RemoteTransport(
        connection,
        shared_part(config, parts.base),
        name,
        parts.patience,
        check_client,
        members=members,
        session=int(before.get("session", 0)),
        clock=clock,
        tell=tell,
    )
    remote.gather()
    experiment = parts.experiment(remote, {DEPLOYMENT: _deployment(name, remote)})
    run = Run(experiment, folder, resume)
    write_json(folder / DEPLOYMENT, _deployment(name, remote))  # before the first order: the next session is newer
    yield remote, None
    try:
        for record in run.rounds():
            _note(folder, remote, name)
            yield remote, record
    finally:
        _note(folder, remote, name)
    summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    remote.finish(last_orders(experiment.federation, run.server), summary)
    _note(folder, remote, name)
    run.write_page()  # last: nobody waits for it, and no site goes without its model where it fails


@dataclass(frozen=True, slots=True, eq=False)
class _Parts:
    """What the server has before it knows its sites."""

    base: Base
    spec: AdapterSpec
    method: Method
    patience: DeploySettings
    experiment: Callable[[RemoteTransport, Mapping[str, object]], Experiment]
    """From the transport, and files that describe the run, to the whole."""


def _simulated(config: Config) -> _Parts:
    """A simulation's parts, with its clients elsewhere."""
    simulation = build(config)
    federation = simulation.federation

    def experiment(transport: RemoteTransport, files: Mapping[str, object]) -> Experiment:
        return Experiment(
            config=config,
            base=simulation.base,
            spec=simulation.spec,
            federation=replace(federation, transport=transport),
            head=simulation.head,
            split=simulation.split,
            digests=simulation.digests,
            origin=simulation.origin,
            files={SPLIT: ownership(simulation), **files},
        )

    patience = DeploySettings(sites=len(federation.transport.roster()))
    return _Parts(simulation.base, simulation.spec, federation.method, patience, experiment)


def _deployed(config: Config, deploy: DeploySettings) -> _Parts:
    """The server's parts: a base to know its maps and to score with, and no examples but those of its test file."""
    require_deployable(config, "the shared config")
    require_weights(config)
    pipeline = make_pipeline(config)
    method = pipeline.method
    if pipeline.facts.centralized:
        raise ConfigError(f"method.name is {method.name!r}, which needs everyone's data in one place: choose another.")
    base = load_named_base(config, config.data.labels or ())
    spec = adapter_spec(config, base, config.adapter.rank, method)
    test = _test_tokens(config, base, deploy.test)
    trainer = new_trainer(config, base, spec, method, train=test, test=test, owned={})  # it scores alone
    unknown = Split({}, (), 0)

    def experiment(transport: RemoteTransport, files: Mapping[str, object]) -> Experiment:
        return Experiment(
            config=config,
            base=base,
            spec=spec,
            federation=Federation(pipeline, spec, transport, plan_of(config), trainer),
            head=trainer.head,
            split=unknown,
            digests=example_digests(no_tokens(), test, unknown),
            origin=f"{len(transport.roster())} sites",
            files=files,
        )

    return _Parts(base, spec, method, deploy, experiment)


def _note(folder: Path, remote: RemoteTransport, run: str) -> None:
    """Write down what was dropped, and who has come since."""
    notes = remote.notes()
    if notes:
        append_lines(folder / DELIVERIES, *notes)
        write_json(folder / DEPLOYMENT, _deployment(run, remote))


def _deployment(run: str, remote: RemoteTransport) -> dict[str, object]:
    """The contents of `deployment.json`: what sites call the run, its newest server process, who is who in it."""
    return {"run": run, "session": remote.session, "sites": remote.members.to_json()}


def _before(folder: Path) -> dict[str, Any]:
    """What an earlier part of the run wrote there; empty where there is none."""
    path = folder / DEPLOYMENT
    if not path.is_file():
        return {}
    try:
        found: dict[str, Any] = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise RunFolderError(f"{path} is damaged: put it back, or choose another run folder for a new run.") from error
    return found


def _members(config: Config, before: Mapping[str, Any]) -> Members:
    """The sites of the run as far as it has come. In Flower's simulation nodes are others at every start."""
    if config.deploy is None:
        return Members()
    return Members(read_members(before.get("sites", {})), config.deploy.most_examples)


def _test_tokens(config: Config, base: Base, file: str | None) -> Tokens:
    if file is None:
        return no_tokens()
    path = Path(file)
    if not path.is_file():
        raise DataError(f"deploy.test is {file!r}, but there is no such file.")
    rows = read_rows(path)
    if config.model.task == "generate":
        examples = dialogues_dataset(config.data, rows, rows, path.name, None, choices=choices_column(config)).test
    else:
        columns = Columns(config.data.text, config.data.label)
        examples = from_rows(rows, rows, columns, path.name, config.data.labels).test
    encoded = encode(config, base, examples, "test", None)
    tokens, _ = test_with_choices(config, base, examples.take(encoded.kept), encoded.tokens)
    return tokens
