# SPDX-License-Identifier: Apache-2.0
"""Several methods over several seeds on the same clients: every one an ordinary run, told side by side.

Runs of one seed share examples, owners, tokens and base. Each has its folder and goes on where it was
stopped; one that fails stops no other.
"""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from fedlora.app.build import Resources, build, client_ranks, federation_scale, load
from fedlora.app.config import Config, make_config, require_validation, resolved
from fedlora.app.inputs import inputs
from fedlora.app.method import make_method
from fedlora.app.pages import has_page, write_page
from fedlora.app.run import Run, is_finished
from fedlora.errors import ConfigError, FedloraError
from fedlora.federation.journal import CONFIG, SUMMARY, require_same_config, require_same_inputs
from fedlora.federation.record import RoundRecord
from fedlora.training.data import Dataset

TRIALS = "rates"
"""The folder of a comparison that holds the trials of learning rates."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One run of a comparison."""

    label: str
    seed: int
    config: Config
    folder: Path


def entries(
    config: Config, methods: Sequence[str], seeds: int, folder: Path, rates: Mapping[str, float] | None = None
) -> list[Entry]:
    """All runs, seed by seed, so that a comparison that is stopped early has whole seeds.

    Args:
        config: what they have in common. Its own method options go with the method that it names. Where
            clients have different ranks, a method that takes one rank for all gets the mix's mean rank, at the
            scale of the mix: a smaller divisor would give it longer steps than the others.
        methods: names.
        seeds: how many, from the config's own on.
        folder: where the runs' folders go.
        rates: learning rates of methods, in place of the config's.

    Raises:
        UserError: an unknown method or a wrong option, before anything runs.
    """
    result = []
    for number, method in itertools.product(range(seeds), methods):
        seed = config.run.seed + number
        tree = _of_method(config, method)
        tree["run"] = {**tree.get("run", {}), "seed": seed}
        if rates:
            tree["train"] = {**tree.get("train", {}), "lr": rates[method]}
        result.append(Entry(method, seed, make_config(tree), folder / folder_name(method) / f"seed-{seed}"))
    return result


def trials(config: Config, methods: Sequence[str], rates: Sequence[float], rounds: int, folder: Path) -> list[Entry]:
    """Short runs of every method at every learning rate, scored on the validation part.

    Raises:
        UserError: there is no validation part, or what `entries` refuses.
    """
    require_validation(config)
    result = []
    for method, rate in itertools.product(methods, rates):
        tree = _of_method(config, method)
        tree["run"] = {**tree.get("run", {}), "rounds": rounds}
        tree["train"] = {**tree.get("train", {}), "lr": rate}
        tree["evaluate"] = {"every": 0, "part": "validation"}
        own = folder / TRIALS / folder_name(method) / f"lr-{rate:g}"
        result.append(Entry(f"{method}, lr {rate:g}", config.run.seed, make_config(tree), own))
    return result


def best_rates(runs: Sequence[Entry]) -> dict[str, float]:
    """Of every method the rate whose trial scored best: accuracy over all clients' validation parts, then loss.

    A rate whose trial failed (a loss that left the finite numbers) is out.

    Raises:
        ConfigError: no trial of a method ended.
    """
    found: dict[str, list[tuple[float, float, float]]] = {entry.config.method.name: [] for entry in runs}
    for entry in runs:
        if is_finished(entry.folder):
            own = json.loads((entry.folder / SUMMARY).read_text(encoding="utf-8"))["personal"]
            found[entry.config.method.name].append((own["weighted_mean"], -own["loss"], entry.config.train.lr))
    for method, scores in found.items():
        if not scores:
            raise ConfigError(f"No trial of {method} came to an end: try lower --rates.")
    return {method: max(scores)[2] for method, scores in found.items()}


def _of_method(config: Config, method: str) -> dict[str, Any]:
    """The config's own keys, for one of several methods."""
    tree: dict[str, Any] = config.model_dump(exclude_unset=True)
    own = config.method.options if method == config.method.name else {}
    facts = make_method(method, own).facts
    tree["method"] = {"name": method, **own}
    tree["run"] = {**tree.get("run", {}), "name": folder_name(method)}
    if config.clients.ranks and not facts.mixed_ranks and not facts.centralized:
        tree["clients"] = {key: value for key, value in tree["clients"].items() if key != "ranks"}
        scale = federation_scale(config, max(_mixed(config)), config.adapter.kind)
        tree["adapter"] = {**tree.get("adapter", {}), "rank": mean_rank(config), "scale": scale}
    return tree


def mean_rank(config: Config) -> int:
    """The mean of all clients' ranks, rounded, at least 1."""
    ranks = _mixed(config)
    return max(1, round(sum(ranks) / len(ranks)))


def _mixed(config: Config) -> list[int]:
    """All clients' ranks, for a method that mixes them."""
    return client_ranks(config, config.split.clients, make_method("zeropad", {}))


def folder_name(method: str) -> str:
    """A method's name as a folder's; of `path/file.py:Class` the class."""
    return method.rpartition(":")[2]


Step = tuple[Entry, RoundRecord | FedloraError]


def compare(runs: Sequence[Entry], dataset: Dataset | None = None, workers: int | None = None) -> Iterator[Step]:
    """Run what is not finished; yields every round's record, or why a run cannot go on.

    A run that is there already counts if it is this comparison's own, of the same config and the same inputs. That is
    seen before anything runs. One that was finished, but killed before its page, gets its page.

    Args:
        runs: from `entries`.
        dataset: examples of the caller's own.
        workers: see `build`.

    Raises:
        UserError: a folder holds another run; or data or base are wrong, which concerns all runs.
    """
    first = {entry.seed: entry.config for entry in reversed(runs)}

    @lru_cache(maxsize=1)
    def resources(seed: int) -> Resources:
        return load(first[seed], dataset)

    begun = [entry for entry in runs if (entry.folder / CONFIG).is_file()]
    for entry in begun:
        require_same_config(entry.folder, resolved(entry.config))
    for entry in begun:
        shared = resources(entry.seed)
        require_same_inputs(entry.folder, inputs(entry.config, shared.base, shared.digests))
    for entry in runs:
        if is_finished(entry.folder) and not has_page(entry.folder):
            write_page([entry.folder], entry.folder)
    for entry in runs:
        if is_finished(entry.folder):
            continue
        shared = resources(entry.seed)
        try:
            simulation = build(entry.config, shared, workers)
            for record in Run(simulation, entry.folder, resume=(entry.folder / CONFIG).is_file()):
                yield entry, record
        except FedloraError as error:
            yield entry, error
