# SPDX-License-Identifier: Apache-2.0
"""Which rungs a race has: the richest plan of a fixed list that is expected to fit the time that is left.

A rung runs its whole field on the same draws, none of which an earlier rung used; the better part goes on to a rung of
more rounds or draws. On the last one two candidates of different kinds meet for all rounds on several draws.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

_FEWEST_ROUNDS = 2
_MARGIN = 0.85
"""A plan may be expected to take so much of the time."""
_A_METHOD = 5
"""About so many candidates are a method's where its variations enter."""
Field = Literal["entrants", "variations", "kinds"]


@dataclass(frozen=True, slots=True)
class Rung:
    """One rung of a plan."""

    field: Field
    """entrants: all methods at all rates; variations: the best methods at their two best rates, and variations of the
    best one; kinds: the best candidate of each of the best kinds."""
    keep: int
    """Methods or kinds that enter; of entrants all do."""
    share: float
    """Of the rounds of the user's run."""
    draws: int
    """On the last rung at least so many are wanted, and more are run where there is time."""


FINALISTS = 2
"""So many kinds meet on the last rung: the difference of two that were chosen on other draws has an honest interval."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The rungs of a race, and who begins where nobody said it."""

    rungs: tuple[Rung, ...]
    methods: int | None = None
    """How many of them; None: all."""
    rates: int | None = None
    """How many, the outer ones left out; None: all."""


def _rungs(first: tuple[float, int], *others: tuple[Field, int, float, int], last: int) -> tuple[Rung, ...]:
    """Share and draws of the first rung; field, how many enter, share and draws of the next; draws of the last."""
    return (Rung("entrants", 0, *first), *(Rung(*each) for each in others), Rung("kinds", FINALISTS, 1.0, last))


PLANS = (
    Plan(_rungs((1 / 2, 2), ("variations", 4, 1 / 2, 3), ("kinds", 4, 1.0, 3), last=8)),
    Plan(_rungs((1 / 2, 1), ("variations", 4, 1 / 2, 2), ("kinds", 3, 1.0, 2), last=6)),
    Plan(_rungs((1 / 4, 1), ("variations", 4, 1 / 2, 2), ("kinds", 3, 1.0, 2), last=6)),
    Plan(_rungs((1 / 4, 1), ("variations", 3, 1 / 2, 2), last=6)),
    Plan(_rungs((1 / 4, 1), ("variations", 3, 1 / 2, 1), last=5)),
    Plan(_rungs((1 / 4, 1), ("variations", 2, 1 / 2, 1), last=4)),
    Plan(_rungs((1 / 4, 1), ("variations", 2, 1 / 2, 1), last=4), methods=6),
    Plan(_rungs((1 / 4, 1), ("variations", 2, 1 / 2, 1), last=4), methods=6, rates=3),
    Plan(_rungs((1 / 4, 1), ("variations", 2, 1 / 4, 1), last=4), methods=4, rates=3),
    Plan(_rungs((1 / 8, 1), ("variations", 2, 1 / 4, 1), last=3), methods=4, rates=3),
    Plan(_rungs((1 / 8, 1), last=3), methods=3, rates=3),
)
"""From the richest to the poorest."""


def rounds_of(share: float, whole: int) -> int:
    """Rounds of a rung: a share of the whole, at least two where there are two."""
    return min(whole, max(_FEWEST_ROUNDS, math.ceil(share * whole)))


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast trials go here."""

    rounds: int
    """Of the user's run."""
    load: float
    """Seconds that a process takes on a new draw before its first trial."""
    workers: int
    """Processes."""

    def seconds(self, candidates: float, cost: float, draws: int, share: float) -> float:
        """Of all processes together, that a rung takes.

        Args:
            candidates: in its field.
            cost: mean seconds of a round of one of them.
            draws: on which all are run.
            share: of the rounds.
        """
        each = min(candidates, self.workers) * self.load + candidates * cost * rounds_of(share, self.rounds)
        return draws * each


def opening(
    costs: Mapping[str, float], rates: int, pace: Pace, seconds: float, plans: Sequence[Plan] = PLANS
) -> tuple[Plan | None, float]:
    """The richest plan that is expected to fit, else the poorest, if its first rung is; else None.

    Args:
        costs: of each method, in the order in which they would be kept, the seconds of a round.
        rates: how many there are.
        pace: how fast trials go.
        seconds: that are left, of all processes together.
        plans: from the richest to the poorest.

    Returns:
        The plan, and the seconds that it is expected to take; without a plan, those that the poorest would.
    """
    expected = 0.0
    for plan in plans:
        kept = list(costs.values())[: plan.methods]
        begins, cost = plan.rungs[0], fmean(kept)
        first = pace.seconds(len(kept) * min(rates, plan.rates or rates), cost, begins.draws, begins.share)
        expected = first + later(plan.rungs[1:], cost, pace)
        if expected <= _MARGIN * seconds:
            return plan, expected
    return (plans[-1], expected) if first <= _MARGIN * seconds else (None, expected)


def rest(done: int, share: float, cost: float, pace: Pace, seconds: float) -> tuple[Rung, ...]:
    """The rungs that should follow: the richest that are expected to fit, else the poorest.

    Args:
        done: rungs that were run.
        share: of the rounds, on the last of them.
        cost: mean seconds of a round of those that are left.
        pace: how fast trials go.
        seconds: that are left, of all processes together.
    """
    ends = list(dict.fromkeys(plan.rungs[done:] for plan in PLANS))
    ends = [end for end in ends if end and end[0].share >= share] or [PLANS[-1].rungs[-1:]]
    fitting = (end for end in ends if later(end, cost, pace) <= _MARGIN * seconds)
    return next(fitting, ends[-1])


def last_draws(most: int, cost: float, pace: Pace, seconds: float) -> int:
    """Draws of the last rung: as many as are expected to fit; below two there is no use in it."""
    one = pace.seconds(FINALISTS, cost, 1, 1.0)
    return most if one <= 0.0 else min(most, int(_MARGIN * seconds / one))


def later(rungs: Sequence[Rung], cost: float, pace: Pace) -> float:
    """The seconds that rungs behind the first are expected to take."""
    sizes = [rung.keep * (_A_METHOD if rung.field == "variations" else 1) for rung in rungs]
    return sum(pace.seconds(size, cost, rung.draws, rung.share) for size, rung in zip(sizes, rungs, strict=True))
