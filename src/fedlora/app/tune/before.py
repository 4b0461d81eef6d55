# SPDX-License-Identifier: Apache-2.0
"""Before a race: what everybody sends, how long a round of each method takes, and the first rung that fits the time."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean

from fedlora.app.config.schema import resolved
from fedlora.app.run.duration import in_words
from fedlora.app.study.runner import Place
from fedlora.app.tune.asked import Asked
from fedlora.app.tune.candidates import Candidate, Kind, entrants, kinds, trial, variations
from fedlora.app.tune.plan import FINALISTS, PLANS, Pace, Plan, Rung, opening, rounds_of
from fedlora.app.tune.record import Record, RungRun, Tree
from fedlora.errors import ConfigError
from fedlora.report.tables import counted, size

Say = Callable[[str], object]
FIRST_LOOK = Rung("entrants", 0, 0.0, 1)
"""The fewest rounds on one draw, by which each method shows that it runs and how long it takes."""


def sent_by_all(asked: Asked, place: Place, say: Say) -> list[Tree]:
    """What every kind would send in all rounds, from a run without training; nothing where there is no budget.

    Raises:
        ConfigError: no kind can be run, or none keeps to the budget.
    """
    if asked.budget is None:
        return []
    whole, rounds = kinds(asked), asked.config.run.rounds
    say(f"counting the bytes of {counted(len(whole), 'candidate')}, {rounds} rounds each")
    rate = entrants(whole[:1], asked.rates)[0].rate
    cells = [trial(asked, Candidate(kind, rate), rounds, asked.config.draw, place.contents) for kind in whole]
    told = dict(place.pool.answers({"config": resolved(cell.config), "only": "bytes"} for cell in cells))
    found: list[Tree] = [
        {
            "method": kind.method,
            "rank": kind.rank,
            "bytes": None if "error" in told[number] else told[number]["bytes_up"] + told[number]["bytes_down"],
            "error": told[number].get("error"),
        }
        for number, kind in enumerate(whole)
    ]
    counts = [each["bytes"] for each in found if each["bytes"] is not None]
    if not counts:
        raise ConfigError(f"No candidate can be run: {found[0]['error']}")
    if min(counts) > asked.budget:
        raise ConfigError(
            f"The budget is {size(asked.budget)}, but the cheapest candidate sends {size(min(counts))} in its "
            f"{rounds} rounds: raise it, or lower run.rounds or the ranks."
        )
    return found


def starts(asked: Asked, record: Record) -> list[Kind]:
    """Each method that can race, at the first of its ranks that the budget has room for."""
    allowed = record.allowed(asked.budget, kinds(asked))
    first = {kind.method: kind for kind in reversed(allowed)}
    return [first[method] for method in asked.methods if method in first and method not in record.refused]


def first_look(asked: Asked, record: Record) -> RungRun:
    """A short trial of each method at the middle rate, on the draw of the first rung."""
    there = starts(asked, record)
    field = entrants(there, asked.rates)[: len(there)]
    return RungRun(FIRST_LOOK, rounds_of(0.0, asked.config.run.rounds), (asked.config.draw,), tuple(field))


def first_rung(asked: Asked, record: Record, seen: Sequence[str], workers: int, say: Say) -> RungRun:
    """The first rung: each method at every rate that there is time for; notes the plan in the record.

    Args:
        asked: the question.
        record: of the race.
        seen: methods, the best on the first look first: where time is short those behind are left out. The config's own
            one stays.
        workers: processes.
        say: is told the plan.

    Raises:
        ConfigError: there is no time for any, or nothing to race.
    """
    order = [asked.config.method.name, *seen]
    there = sorted(starts(asked, record), key=lambda kind: (*order, kind.method).index(kind.method))
    pace = Pace(asked.config.run.rounds, record.load(workers), workers)
    costs = {kind.method: record.round_seconds(kind) for kind in there}
    plan, expected = opening(costs, len(asked.rates), pace, record.clock.left * workers, _plans(asked))
    if plan is None:
        needed = record.clock.now + 1.3 * expected / workers
        raise ConfigError(
            f"{asked.minutes:g} minutes are too few for one rung: the shortest race is expected to take about "
            f"{in_words(needed)} here; raise the minutes, or lower run.rounds or data.train_examples."
        )
    kept = there[: plan.methods]
    field = entrants(kept, asked.rates)[: len(kept) * (plan.rates or len(asked.rates))]
    allowed = record.allowed(asked.budget, kinds(asked))
    if len(field) + sum(len(variations(asked, each, allowed)) for each in field) < FINALISTS:
        raise ConfigError("There is one candidate alone, and nothing to race: name more methods, ranks or rates.")
    record.tree["plan"] = {
        "rungs": [{"share": rung.share, "draws": rung.draws} for rung in plan.rungs],
        "no_time_for": [kind.method for kind in there[len(kept) :]],
        "rates": sorted({candidate.rate.lr for candidate in field}),
    }
    say(
        f"planned: {counted(len(plan.rungs), 'rung')} in about {in_words(expected / workers)}; "
        f"{counted(len(field), 'candidate')} begin, of {counted(len(kept), 'method')}"
    )
    begins, draw = plan.rungs[0], asked.config.draw
    draws = tuple(range(draw, draw + min(begins.draws, asked.draws)))
    return RungRun(begins, rounds_of(begins.share, asked.config.run.rounds), draws, tuple(field))


def mean_cost(record: Record, field: Sequence[Candidate]) -> float:
    """Mean seconds of a round of some candidates."""
    return fmean(record.round_seconds(candidate.kind) for candidate in field)


def _plans(asked: Asked) -> list[Plan]:
    """The plans, which leave out no method and no rate that the user named."""
    return [
        replace(plan, methods=plan.methods if asked.may_cut else None, rates=plan.rates if asked.may_widen else None)
        for plan in PLANS
    ]
