# SPDX-License-Identifier: Apache-2.0
"""The question of a tuning: a config, what may be changed in it, and what it may cost."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from fedlora.app.config.schema import Config, require_validation
from fedlora.app.config.sections import checked
from fedlora.app.study.cells import Contents, lasting
from fedlora.app.tune.methods import Judge, enter, usual_judge
from fedlora.core.settings import AboveZero, Positive, Range
from fedlora.errors import ConfigError
from fedlora.training.bases.loaded_model import PYTHON

USUAL_RATES = (5e-4, 1e-3, 2e-3, 5e-3, 1e-2)
USUAL_DENSE_RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
"""Of every parameter of the base, which takes far smaller ones than adapters."""
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@dataclass(frozen=True)
class TuneSettings:
    """What may be changed in the config, and what it may cost."""

    minutes: AboveZero
    """Wall-clock minutes that the race may take."""
    methods: Annotated[list[str], Range(entries=1)] | None = None
    """The methods to race; by default those that fit the config."""
    ranks: Annotated[list[Positive], Range(entries=1)] | None = None
    """The ranks to race; by default adapter.rank, its half and its double."""
    lr: Annotated[list[AboveZero], Range(entries=1)] | None = None
    """The learning rates to race."""
    budget: str | Positive | None = None
    """Bytes up and down of the whole run and all clients, such as 20MB."""
    judge: Literal["global", "personal"] | None = None
    """By what the candidates are ranked; by default as the config's method is judged."""
    draws: Annotated[int, Range(at_least=2)] = 10
    """Partition draws of the last rung, at most."""


@dataclass(frozen=True)
class _Sections:
    tune: TuneSettings


@dataclass(frozen=True, slots=True)
class Asked:
    """The question, checked, with what the defaults stand for."""

    config: Config
    """The user's."""
    minutes: float
    methods: tuple[str, ...]
    """Built-in names, or absolute paths of `file.py:Class`; the config's own first, where it is among them."""
    may_cut: bool
    """Whether methods and rates may be left out for lack of time: nobody named them."""
    ranks: tuple[int, ...]
    """The first one is raced from the beginning on; empty where the clients have ranks of their own."""
    rates: tuple[float, ...]
    """Ascending."""
    may_widen: bool
    """Whether a rate beyond the list is tried where the best one stands at its edge: nobody named them."""
    budget: int | None
    """Bytes."""
    judge: Judge
    draws: int
    """Of the last rung, at most."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Methods that do not enter, and why."""

    def identity(self, contents: Contents) -> dict[str, Any]:
        """What a race has to have in common with this question to be the same one.

        Args:
            contents: see `cell_key`.
        """
        return {
            "config": lasting(self.config, contents),
            "minutes": self.minutes,
            "methods": list(self.methods),
            "ranks": list(self.ranks),
            "rates": list(self.rates),
            "budget": self.budget,
            "judge": self.judge,
            "draws": self.draws,
        }


def ask(config: Config, settings: Mapping[str, Any]) -> Asked:
    """The question of a tuning.

    Args:
        config: the user's, its dtype named.
        settings: see `TuneSettings`; None stands for the default.

    Raises:
        UserError: with one sentence about what does not fit.
    """
    given = checked(_Sections, {"tune": {k: v for k, v in settings.items() if v is not None}}).tune
    require_validation(config)
    if config.data.source == PYTHON:
        raise ConfigError(
            "The examples were handed over in Python, but trials are run by other processes, which read files: write "
            "the examples to a file and set data.path."
        )
    judge = given.judge or usual_judge(config)
    names, left_out = enter(config, given.methods, judge)
    usual = USUAL_DENSE_RATES if config.adapter.kind == "dense" else USUAL_RATES
    return Asked(
        config=config,
        minutes=float(given.minutes),
        methods=names,
        may_cut=given.methods is None,
        ranks=_ranks(config, given.ranks),
        rates=tuple(sorted(set(given.lr or _with(config.train.lr, usual)))),
        may_widen=given.lr is None,
        budget=None if given.budget is None else bytes_of(given.budget),
        judge=judge,
        draws=given.draws,
        left_out=left_out,
    )


def bytes_of(budget: str | int) -> int:
    """A number of bytes as people write it: 20MB, 1.5 GB, 800000.

    Raises:
        ConfigError: it is none.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?b?)\s*", str(budget), flags=re.IGNORECASE)
    unit = found[2].upper() if found else ""
    number = float(found[1]) * _UNITS[unit if unit.endswith("B") or not unit else f"{unit}B"] if found else 0.0
    if number < 1:
        raise ConfigError(f"The budget is {budget!r}; expected bytes of the whole run, such as 20MB or 1.5GB.")
    return round(number)


def _with(rate: float, usual: Sequence[float]) -> list[float]:
    """The usual rates, with the config's own in the place of its neighbour, so that what it came with races too."""
    neighbour = min(usual, key=lambda other: abs(math.log(other / rate)))
    return [rate if other == neighbour else other for other in usual]


def _ranks(config: Config, given: Sequence[int] | None) -> tuple[int, ...]:
    """The config's rank, or the one next to it, comes first."""
    if config.clients.ranks is not None:
        if given is not None:
            raise ConfigError(
                "Ranks to race were given, but clients.ranks gives the clients ranks of their own: leave one out."
            )
        return ()
    here = config.adapter.rank
    if given is None and config.adapter.kind == "dense":
        return (here,)
    ranks = set(given or (here, max(1, here // 2), 2 * here))
    return tuple(sorted(ranks, key=lambda rank: (abs(rank - here), rank)))
