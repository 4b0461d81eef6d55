# SPDX-License-Identifier: Apache-2.0
"""Several methods over several seeds on the same clients: every one an ordinary run, told side by side.

Runs of one seed share examples, owners, tokens and base. Each has its folder and goes on where it was
stopped; one that fails stops no other.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlora.app.build import Ingredients, build, client_ranks, load, make_method
from fedlora.app.config import Config, make_config, resolved
from fedlora.app.run import Run, is_finished
from fedlora.errors import FedloraError
from fedlora.federation.journal import CONFIG, require_same_config
from fedlora.federation.record import RoundRecord
from fedlora.methods import find_method
from fedlora.training.data import Dataset


@dataclass(frozen=True, slots=True)
class Entry:
    """One run of a comparison."""

    label: str
    seed: int
    config: Config
    folder: Path


def entries(config: Config, methods: Sequence[str], seeds: int, folder: Path) -> list[Entry]:
    """All runs, seed by seed, so that a comparison that is stopped early has whole seeds.

    The config's own method options go with the method that it names. Where clients have different ranks, a
    method that takes one rank for all gets the mix's mean rank.

    Raises:
        UserError: an unknown method or a wrong option, before anything runs.
    """
    result = []
    for number, method in itertools.product(range(seeds), methods):
        tree: dict[str, Any] = config.model_dump(exclude_unset=True)
        kind = find_method(method)
        own = config.method.options if method == config.method.name else {}
        make_method(method, own)
        tree["method"] = {"name": method, **own}
        seed = config.run.seed + number
        tree["run"] = {**tree.get("run", {}), "seed": seed, "name": method}
        if config.clients.ranks and not kind.mixed_ranks and not kind.pooled:
            tree["clients"] = {key: value for key, value in tree["clients"].items() if key != "ranks"}
            tree["adapter"] = {**tree.get("adapter", {}), "rank": mean_rank(config)}
        result.append(Entry(method, seed, make_config(tree), folder / folder_name(method) / f"seed-{seed}"))
    return result


def mean_rank(config: Config) -> int:
    """The mean of all clients' ranks, rounded, at least 1."""
    ranks = client_ranks(config, config.split.clients, make_method("zeropad", {}))
    return max(1, round(sum(ranks) / len(ranks)))


def folder_name(method: str) -> str:
    """A method's name as a folder's; of `path/file.py:Class` the class."""
    return method.rpartition(":")[2]


Step = tuple[Entry, RoundRecord | FedloraError]


def compare(runs: Sequence[Entry], dataset: Dataset | None = None) -> Iterator[Step]:
    """Run what is not finished; yields every round's record, or why a run cannot go on.

    Args:
        runs: from `entries`.
        dataset: examples of the caller's own.

    Raises:
        UserError: a folder holds another run; or data or base are wrong, which concerns all runs.
    """
    for entry in runs:
        if (entry.folder / CONFIG).is_file():
            require_same_config(entry.folder, resolved(entry.config))
    for _, own in itertools.groupby((run for run in runs if not is_finished(run.folder)), key=lambda run: run.seed):
        shared: Ingredients | None = None
        for entry in own:
            shared = shared or load(entry.config, dataset)
            try:
                simulation = build(entry.config, shared)
                for record in Run(simulation, entry.folder, resume=(entry.folder / CONFIG).is_file()):
                    yield entry, record
            except FedloraError as error:
                yield entry, error
