# SPDX-License-Identifier: Apache-2.0
"""What is raced: a method at a rank with a learning rate, as cells of a study that are scored on validation parts."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from fedlora.app.compare.compare import at_one_rank
from fedlora.app.config.paths import short_class_name
from fedlora.app.config.schema import Config
from fedlora.app.study.cells import Cell, Contents, cell_key
from fedlora.app.study.plan import Rate
from fedlora.app.tune.asked import Asked
from fedlora.app.tune.methods import trains_both_sides, usual_ratio, with_method

_RATIOS = (1.0, 5.0)
"""Of B's rate and A's, that are tried where a method trains both sides."""
_BEYOND = 2.5
"""A rate beyond the edge of the list is so many times the last one."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a candidate is besides its learning rate."""

    method: str
    rank: int | None
    """None: the clients have ranks of their own."""

    @property
    def label(self) -> str:
        """What sentences call it."""
        name = short_class_name(self.method)
        return name if self.rank is None else f"{name}, rank {self.rank}"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of those that race."""

    kind: Kind
    rate: Rate

    @property
    def label(self) -> str:
        """What sentences call it."""
        return f"{self.kind.label}, lr {self.rate}"

    def to_json(self) -> dict[str, Any]:
        """As a tree; the inverse of `candidate_of`."""
        return {"method": self.kind.method, "rank": self.kind.rank, "lr": self.rate.lr, "lr_b_ratio": self.rate.ratio}


def candidate_of(tree: dict[str, Any]) -> Candidate:
    """A candidate from its tree."""
    return Candidate(Kind(tree["method"], tree["rank"]), Rate(tree["lr"], tree["lr_b_ratio"]))


def kinds(asked: Asked) -> list[Kind]:
    """Every method at every rank, the first rank of all methods first."""
    return [Kind(method, rank) for rank in asked.ranks or (None,) for method in asked.methods]


def entrants(first: Iterable[Kind], rates: Iterable[float]) -> list[Candidate]:
    """Who begins: kinds at each rate, rate by rate from the middle of the list outwards.

    So a rung that is cut short has seen every kind at a rate that is not extreme.

    Args:
        first: one kind of each method.
        rates: ascending.
    """
    ascending, there = list(rates), list(first)
    middle = (len(ascending) - 1) / 2
    order = sorted(range(len(ascending)), key=lambda place: (abs(place - middle), place))
    return [Candidate(kind, Rate(ascending[place])) for place in order for kind in there]


def variations(asked: Asked, candidate: Candidate, allowed: Iterable[Kind]) -> list[Candidate]:
    """A candidate at the other ranks, with another ratio of B's rate, and past the edge of the rates: one at a time.

    Args:
        asked: the question.
        candidate: one that went on from the first rung.
        allowed: kinds that the budget has room for.
    """
    kind, rate = candidate.kind, candidate.rate
    found = [Candidate(other, rate) for other in allowed if other.method == kind.method and other != kind]
    if trains_both_sides(asked.config, kind.method) and rate.ratio is None:
        usual = usual_ratio(asked.config, kind.method)
        found += [Candidate(kind, replace(rate, ratio=ratio)) for ratio in _RATIOS if ratio != usual]
    if asked.may_widen and rate.lr in (asked.rates[0], asked.rates[-1]):
        beyond = rate.lr * _BEYOND if rate.lr == asked.rates[-1] else rate.lr / _BEYOND
        found.append(Candidate(kind, replace(rate, lr=float(f"{beyond:.3g}"))))
    return found


def chosen_config(asked: Asked, candidate: Candidate) -> Config:
    """The user's config with a candidate's method, rank and rate, and all else as it was."""
    config = with_method(asked.config, candidate.kind.method)
    if candidate.kind.rank is not None:
        config = replace(config, adapter=replace(config.adapter, rank=candidate.kind.rank))
    ratio = config.train.lr_b_ratio if candidate.rate.ratio is None else candidate.rate.ratio
    return at_one_rank(replace(config, train=replace(config.train, lr=candidate.rate.lr, lr_b_ratio=ratio)))


def trial(asked: Asked, candidate: Candidate, rounds: int, draw: int, contents: Contents) -> Cell:
    """The run of a candidate on a draw, scored on the clients' validation parts after its last round.

    Args:
        asked: the question.
        candidate: who runs.
        rounds: of the run.
        draw: split.seed.
        contents: see `cell_key`.
    """
    chosen = chosen_config(asked, candidate)
    config = replace(
        chosen,
        run=replace(chosen.run, name="cell", rounds=rounds),
        split=replace(chosen.split, seed=draw),
        evaluate=replace(chosen.evaluate, every=0, part="validation"),
        deploy=None,
    )
    key = cell_key(config, contents)
    return Cell("", candidate.kind.label, draw, config.run.seed, candidate.rate, config, key)
