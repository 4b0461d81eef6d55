# SPDX-License-Identifier: Apache-2.0
"""Several methods over several seeds on the same clients: every one an ordinary run, and one table of all.

Runs of one seed share examples, owners, tokens and base. Each has its folder and goes on where it was
stopped; one that fails stops no other.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

from fedlora.app.build.inputs import inputs
from fedlora.app.build.method import make_method
from fedlora.app.build.simulation import Resources, build, client_ranks, federation_scale, load
from fedlora.app.config.paths import class_name, short_class_name
from fedlora.app.config.schema import Config, MethodSection, require_validation, resolved
from fedlora.app.run.pages import has_page, write_page
from fedlora.app.run.run import Run, is_finished
from fedlora.errors import ConfigError, FedloraError
from fedlora.federation.journal import SUMMARY
from fedlora.federation.record import RoundRecord
from fedlora.federation.same_run import CONFIG, ENVIRONMENT, require_same_config, require_same_inputs
from fedlora.federation.settings import EvaluateSettings
from fedlora.run_files import read_object
from fedlora.training.bases.loaded_model import LoadedModel
from fedlora.training.data.examples import Dataset

BASE_ALONE = "base"
"""The method that trains nothing."""
TRIALS = "rates"
"""The folder of a comparison that holds the trials of learning rates."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One run of a comparison."""

    label: str
    seed: int
    config: Config
    folder: Path

    @property
    def finished(self) -> bool:
        """Whether its folder has the whole of it."""
        return is_finished(self.folder, self.config.run.rounds)


def entries(
    config: Config, methods: Sequence[str], seeds: int, folder: Path, rates: Mapping[str, float] | None = None
) -> list[Entry]:
    """All runs, seed by seed, so that a comparison that is stopped early has whole seeds.

    Where the task is generation, the base alone is one of them: what a score of a language model is worth shows beside
    what its base had without any training.

    Args:
        config: what they have in common. Its own method options go with the method that it names. Where
            clients have different ranks, a method that takes one rank for all gets the mix's mean rank, at the
            scale of the mix: a smaller divisor would give it longer steps than the others.
        methods: names; the path of a `file.py:Class` is seen from the working directory.
        seeds: how many, from the config's seed on.
        folder: where the runs' folders go.
        rates: learning rates of methods, in place of the config's.

    Raises:
        UserError: an unknown method or a wrong option, before anything runs.
    """
    result = []
    for number, method in itertools.product(range(seeds), _anchored(_with_base(config, methods))):
        seed, chosen = config.run.seed + number, _of_method(config, method)
        chosen = replace(chosen, run=replace(chosen.run, seed=seed))
        if rates and method in rates:
            chosen = replace(chosen, train=replace(chosen.train, lr=rates[method]))
        name = make_method(method, chosen.method.options).name
        result.append(Entry(name, seed, chosen, folder / folder_name(method) / f"seed-{seed}"))
    return result


def trials(config: Config, methods: Sequence[str], rates: Sequence[float], rounds: int, folder: Path) -> list[Entry]:
    """Short runs of every method at every learning rate, scored on the validation part.

    Raises:
        UserError: there is no validation part, or what `entries` refuses.
    """
    require_validation(config)
    result = []
    trained = [method for method in _anchored(methods) if method != BASE_ALONE]
    for method, rate in itertools.product(trained, rates):
        chosen = _of_method(config, method)
        trial = replace(
            chosen,
            run=replace(chosen.run, rounds=rounds),
            train=replace(chosen.train, lr=rate),
            evaluate=EvaluateSettings(every=0, part="validation"),
        )
        place = folder / TRIALS / folder_name(method) / f"lr-{rate:g}"
        name = make_method(method, chosen.method.options).name
        result.append(Entry(f"{name}, lr {rate:g}", config.run.seed, trial, place))
    return result


def _with_base(config: Config, methods: Sequence[str]) -> Sequence[str]:
    """The methods of a comparison, with the base alone behind those of language models."""
    return [*methods, BASE_ALONE] if config.model.task == "generate" and BASE_ALONE not in methods else methods


def best_rates(runs: Sequence[Entry]) -> dict[str, float]:
    """Of every method the rate whose trial scored best over all clients' validation parts.

    It goes by the task's headline metric; of equals, by its other metrics in their order.

    A rate whose trial failed (a loss that left the finite numbers) is out.

    Raises:
        ConfigError: no trial of a method ended.
    """
    found: dict[str, list[tuple[list[float], float]]] = {entry.config.method.name: [] for entry in runs}
    for entry in runs:
        if entry.finished:
            found[entry.config.method.name].append((goodness(entry.folder), entry.config.train.lr))
    for method, trials_of_method in found.items():
        if not trials_of_method:
            raise ConfigError(f"No trial of {short_class_name(method)} came to an end: try lower --rates.")
    return {method: max(trials_of_method)[1] for method, trials_of_method in found.items()}


def goodness(folder: Path) -> list[float]:
    """The metrics of a finished run over all clients' examples, each turned so that more is better."""
    summary = read_object(folder / SUMMARY, {"personal": dict})
    environment = read_object(folder / ENVIRONMENT, {"task": dict})
    headline, *others = environment["task"]["metrics"]
    values = [(headline, summary["personal"]["weighted_mean"])]
    values += [
        (metric, summary["personal"][metric["name"]]) for metric in others if metric["name"] in summary["personal"]
    ]
    return [value if metric["higher_is_better"] else -value for metric, value in values]


def _of_method(config: Config, method: str) -> Config:
    """The config for one of several methods."""
    options = config.method.options if method == config.method.name else {}
    return at_one_rank(
        replace(config, method=MethodSection(method, options), run=replace(config.run, name=folder_name(method)))
    )


def at_one_rank(config: Config) -> Config:
    """The config, where its method takes one rank for all and clients have several, at their mean and their scale."""
    facts = make_method(config.method.name, config.method.options).facts
    if not config.clients.ranks or facts.mixed_ranks or facts.centralized:
        return config
    scale = federation_scale(config, max(_mixed(config)), config.adapter.kind)
    adapter = replace(config.adapter, rank=mean_rank(config), scale=scale)
    return replace(config, clients=replace(config.clients, ranks=None), adapter=adapter)


def mean_rank(config: Config) -> int:
    """The mean of all clients' ranks, rounded, at least 1."""
    ranks = _mixed(config)
    return max(1, round(sum(ranks) / len(ranks)))


def _mixed(config: Config) -> list[int]:
    """All clients' ranks, for a method that mixes them."""
    return client_ranks(config, config.split.clients, make_method("zeropad", {}))


def _anchored(methods: Sequence[str]) -> list[str]:
    return [class_name(method, Path.cwd()) for method in methods]


def folder_name(method: str) -> str:
    """A method's name as a folder's; of `path/file.py:Class` the class."""
    return method.rpartition(":")[2]


Step = tuple[Entry, Literal["begins"] | RoundRecord | FedloraError]
"""What happened to which run: it begins, a round of it is done, or it cannot go on."""


def compare(
    runs: Sequence[Entry],
    dataset: Dataset | None = None,
    workers: int | None = None,
    loaded: LoadedModel | None = None,
) -> Iterator[Step]:
    """Run what is not finished; yields when a run begins, every round's record, or why a run cannot go on.

    A run that is there already counts if it belongs to this comparison: same config, same inputs. That is
    seen before anything runs. One that was finished, but killed before its page, gets its page.

    Args:
        runs: from `entries`.
        dataset: the caller's examples.
        workers: see `build`.
        loaded: the caller's model.

    Raises:
        UserError: a folder holds another run; or data or base are wrong, which concerns all runs.
    """
    first = {entry.seed: entry.config for entry in reversed(runs)}

    @lru_cache(maxsize=1)
    def resources(seed: int) -> Resources:
        return load(first[seed], dataset, loaded)

    begun = [entry for entry in runs if (entry.folder / CONFIG).is_file()]
    for entry in begun:
        require_same_config(entry.folder, resolved(entry.config))
    for entry in begun:
        shared = resources(entry.seed)
        require_same_inputs(entry.folder, inputs(entry.config, shared.base, shared.digests))
    for entry in runs:
        if entry.finished and not has_page(entry.folder):
            write_page([entry.folder], entry.folder)
    for entry in runs:
        if entry.finished:
            continue
        yield entry, "begins"
        shared = resources(entry.seed)
        try:
            simulation = build(entry.config, shared, workers)
            for record in Run(simulation, entry.folder, resume=(entry.folder / CONFIG).is_file()):
                yield entry, record
        except FedloraError as error:
            yield entry, error
