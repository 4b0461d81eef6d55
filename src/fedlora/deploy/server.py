# SPDX-License-Identifier: Apache-2.0
"""The server of a deployed federation: the loop, the run folder and the report are those of a simulation."""

import json
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy

from fedlora.app.build import Setting, adapter_spec, load_named_base, plan_of, train_settings
from fedlora.app.config import Config
from fedlora.app.method import make_method, wrapped
from fedlora.app.run import Run
from fedlora.core.adapter import AdapterSpec
from fedlora.core.rounds import Client
from fedlora.deploy.post import PostOffice
from fedlora.deploy.relay import Patience, Relay
from fedlora.deploy.shared import require_deployable, shared_part
from fedlora.errors import ConfigError, DataError
from fedlora.federation.files import append_lines
from fedlora.federation.record import RoundRecord
from fedlora.federation.server import Federation, last_orders
from fedlora.methods.base import Method
from fedlora.training.cohort import CohortTrainer
from fedlora.training.data import Columns, from_rows
from fedlora.training.model import Base
from fedlora.training.split import Split
from fedlora.training.tables import read_rows
from fedlora.training.tokens import Tokens, tokenise
from fedlora.training.trainer import PlainTrainer

DEPLOYMENT = "deployment.json"
DELIVERIES = "deliveries.jsonl"


def run_server(
    config: Config, post: PostOffice, folder: Path, resume: bool = False
) -> Iterator[tuple[Relay, RoundRecord | None]]:
    """Gather the sites, run the rounds, have every site write its own model.

    Args:
        config: the shared config, with [deploy].
        post: carries letters to the sites.
        folder: the run folder.
        resume: go on with the run that the folder holds.

    Yields:
        The relay once the sites are there, then the record of every round.

    Raises:
        UserError: with one sentence about what is in the way.
    """
    if config.deploy is None:
        raise ConfigError("The config has no section [deploy]: say at least how many sites to wait for (sites).")
    require_deployable(config, "the shared config")
    own = config.deploy
    method = wrapped(make_method(config.method.name, config.method.options), config.wrap)
    if method.pooled:
        raise ConfigError(f"method.name is {method.name!r}, which needs everybody's data in one place: choose another.")
    base = load_named_base(config, config.data.labels or ())
    spec = adapter_spec(config, base, config.adapter.rank, method)
    name = _run_name(config, folder, resume)
    patience = Patience(own.sites, own.wait, own.deadline, own.quorum)

    def admit(clients: Sequence[Client]) -> None:
        if any(client.rank > spec.rank for client in clients):
            raise ConfigError(f"its rank is {clients[0].rank}, more than adapter.rank ({spec.rank}).")
        method.admit(spec, clients)

    relay = Relay(post, shared_part(config, base), name, patience, admit)
    trainer = _trainer(config, base, spec, method)
    relay.gather()
    setting = Setting(
        config=config,
        base=base,
        spec=spec,
        federation=Federation(method, spec, relay, plan_of(config), trainer if own.test else None),
        head=trainer.head,
        split=Split({}, (), 0),
        origin=f"{len(relay.roster())} sites",
        files={DEPLOYMENT: {"run": name}},
    )
    run = Run(setting, folder, resume)
    yield relay, None
    for record in run:
        _note(folder, relay)
        yield relay, record
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    relay.finish(last_orders(setting.federation, run.server), summary)
    _note(folder, relay)


def _note(folder: Path, relay: Relay) -> None:
    notes = relay.notes()
    if notes:
        append_lines(folder / DELIVERIES, *notes)


def _run_name(config: Config, folder: Path, resume: bool) -> str:
    """What sites call the run: their memories belong to it, so a new run has a new one."""
    if resume and (folder / DEPLOYMENT).is_file():
        return str(json.loads((folder / DEPLOYMENT).read_text(encoding="utf-8"))["run"])
    return f"{config.run.name}-{secrets.token_hex(4)}"


def _trainer(config: Config, base: Base, spec: AdapterSpec, method: Method) -> PlainTrainer:
    """Scores the global model on the server's own test file; trains nothing."""
    test = _test_tokens(config, base)
    return CohortTrainer(
        base,
        spec,
        train_settings(config, method),
        train=test,
        test=test,
        owned={},
        seed=config.run.seed,
        rounds=config.run.rounds,
        device=config.run.device,
        tokens_a_pass=config.train.tokens_a_pass,
    )


def _test_tokens(config: Config, base: Base) -> Tokens:
    own = config.deploy
    if own is None or own.test is None:
        nothing = numpy.zeros(0, dtype=numpy.int64)
        return Tokens(nothing.astype(numpy.int32), numpy.zeros(1, dtype=numpy.int64), nothing)
    path = Path(own.test)
    if not path.is_file():
        raise DataError(f"deploy.test is {own.test!r}, but there is no such file.")
    rows, columns = read_rows(path), Columns(config.data.text, config.data.label)
    texts = from_rows(rows, rows, columns, path.name, config.data.labels).test
    return tokenise(texts, base.tokenizer, config.model.max_length)
