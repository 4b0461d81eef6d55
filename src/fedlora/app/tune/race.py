# SPDX-License-Identifier: Apache-2.0
"""The race: what everybody costs, which rungs fit the time, and rung after rung, each candidate on the same draws."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from fedlora.app.compare.compare import goodness
from fedlora.app.config.schema import resolved
from fedlora.app.run.duration import in_words
from fedlora.app.study.cells import Cell
from fedlora.app.study.pool import Job
from fedlora.app.study.runner import Place, cell_folder, diverged, is_done
from fedlora.app.tune.asked import Asked
from fedlora.app.tune.candidates import Candidate, Kind, entrants, kinds, trial, variations
from fedlora.app.tune.plan import FINALISTS, PLANS, Rung, last_draws, opening, rest, rounds_of
from fedlora.app.tune.record import Record, RungRun, Tree, rung_run_of
from fedlora.app.tune.selection import Judged, judged, next_field
from fedlora.errors import ConfigError
from fedlora.federation.same_run import ENVIRONMENT, ROUNDS
from fedlora.report.tables import counted, size
from fedlora.run_files import read_lines, read_object

Say = Callable[[str], object]
_OVERRUN, _HALF = 1.5, 0.5
"""A rung before the last may take so many times what it was expected to, and half of the time that is left anyway."""
_FEW_ROUNDS = 2
"""Of a dry run that need not count the bytes of all rounds."""


def race(asked: Asked, place: Place, record: Record, say: Say) -> None:
    """Run a race to its end, or as far as its time goes. What the record and the cells have is not run again.

    Args:
        asked: the question.
        place: where cells are run and kept.
        record: of this race.
        say: is told what happens, line by line.

    Raises:
        ConfigError: the time is too short for one rung, or nothing can be run; the sentence says why.
    """
    if record.looks is None:
        record.tree["looks"] = _look(asked, place, say)
        record.write()
    if not record.rungs:
        record.begin(_first(asked, place, record, say))
    while True:
        run = rung_run_of(record.rungs[-1])
        if not record.rungs[-1]["ended"]:
            _announce(asked, record, run, say)
            failed = _run(asked, place, record, run, say)
            record.end(_found(asked, place, run, failed))
        best = standing(record.rungs[-1])
        _require_some(record, run, best)
        following = None if run.rung.keep == FINALISTS else _next(asked, place, record, run, best)
        if following is None:
            return
        record.begin(following)


def standing(tree: Tree) -> Judged:
    """What counts of a rung that has come to its end."""
    run = rung_run_of(tree)
    scores = {
        candidate: {int(draw): told["goodness"] for draw, told in by.items()}
        for candidate, by in zip(run.field, tree["trials"], strict=True)
    }
    return judged(scores, run.draws, tree["failed"])


# ------------------------------------------------------------------------------------------------- before


def _look(asked: Asked, place: Place, say: Say) -> list[Tree]:
    """A dry run of every method at its first rank, or with a budget, of every kind: whether it runs, and its costs."""
    whole = kinds(asked)
    looked = whole if asked.budget is not None else whole[: len(asked.methods)]
    rounds = asked.config.run.rounds if asked.budget is not None else min(_FEW_ROUNDS, asked.config.run.rounds)
    say(f"a dry run of {counted(len(looked), 'candidate')}, to see what each takes")
    cells = [_cell(asked, place, Candidate(kind, entrants([kind], asked.rates)[0].rate), rounds, 0) for kind in looked]
    found: dict[int, Tree] = {}
    for number, told in place.pool.answers({"config": resolved(cell.config)} for cell in cells):
        error = told.get("error")
        found[number] = {
            "method": looked[number].method,
            "rank": looked[number].rank,
            "bytes": None if error else told["bytes_up"] + told["bytes_down"],
            "seconds": None if error else told["seconds"] / rounds,
            "error": error,
        }
    looks = [found[number] for number in range(len(looked))]
    if all(look["error"] for look in looks):
        raise ConfigError(f"No candidate can be run: {looks[0]['error']}")
    return looks


def _first(asked: Asked, place: Place, record: Record, say: Say) -> RungRun:
    """The first rung: each method at the first of its ranks that can be run, at every rate that there is time for."""
    allowed = record.allowed(asked.budget, kinds(asked))
    first = {kind.method: kind for kind in reversed(allowed)}
    starts = [first[method] for method in asked.methods if method in first and _is_looked_at(record, first[method])]
    if not starts:
        least = min(look["bytes"] for look in record.looks or () if look["bytes"] is not None)
        raise ConfigError(
            f"The budget is {size(asked.budget or 0)}, but the cheapest candidate sends {size(least)} in its "
            f"{asked.config.run.rounds} rounds: raise it, or lower run.rounds or the ranks."
        )
    rounds, workers = asked.config.run.rounds, place.pool.workers
    costs = {kind.method: record.round_seconds(kind) for kind in starts}
    seconds = record.clock.left * workers
    plans = [
        replace(plan, methods=plan.methods if asked.may_cut else None, rates=plan.rates if asked.may_widen else None)
        for plan in PLANS
    ]
    plan, expected = opening(costs, len(asked.rates), rounds, seconds, plans)
    if plan is None:
        raise ConfigError(
            f"{asked.minutes:g} minutes are too few for one rung: the shortest race is expected to take about "
            f"{in_words(1.3 * expected / workers)} here; raise the minutes, or lower run.rounds or data.train_examples."
        )
    kept = starts[: plan.methods]
    field = entrants(kept, asked.rates)[: len(kept) * (plan.rates or len(asked.rates))]
    if len(field) + sum(len(variations(asked, each, allowed)) for each in field) < FINALISTS:
        raise ConfigError(
            "There is one candidate alone, so there is nothing to race: name more methods, ranks or rates."
        )
    record.tree["plan"] = {
        "rungs": [{"share": rung.share, "draws": rung.draws} for rung in plan.rungs],
        "no_time_for": [kind.method for kind in starts[len(kept) :]],
        "rates": sorted({candidate.rate.lr for candidate in field}),
    }
    say(
        f"planned: {counted(len(plan.rungs), 'rung')} in about {in_words(expected / workers)}; "
        f"{counted(len(field), 'candidate')} begin, of {counted(len(kept), 'method')}"
    )
    return _rung_run(asked, record, plan.rungs[0], field)


def _is_looked_at(record: Record, kind: Kind) -> bool:
    return any((look["method"], look["rank"]) == (kind.method, kind.rank) for look in record.looks or ())


def _next(asked: Asked, place: Place, record: Record, run: RungRun, best: Judged) -> RungRun | None:
    """The rung that follows; None: there is no time for one, or nobody to meet the best."""
    rounds, workers = asked.config.run.rounds, place.pool.workers
    cost = fmean(record.round_seconds(candidate.kind) for candidate in best.best[: max(1, len(best.best) // 2)])
    seconds = record.clock.left * workers
    rungs = rest(len(record.rungs), run.rung.share, cost, rounds, seconds)
    rung, allowed = rungs[0], record.allowed(asked.budget, kinds(asked))
    field = next_field(asked, rung, best.best, allowed)
    if len(field) < FINALISTS:
        return None
    if rung.field == "kinds" and len(field) == FINALISTS:
        rung = rungs[-1]
    if rung.keep == FINALISTS:
        cost = fmean(record.round_seconds(candidate.kind) for candidate in field)
        if seconds < 2 * FINALISTS * cost * rounds:
            return None
        rung = replace(rung, draws=last_draws(asked.draws, cost, rounds, seconds))
    return _rung_run(asked, record, rung, field)


def _rung_run(asked: Asked, record: Record, rung: Rung, field: Sequence[Candidate]) -> RungRun:
    """A rung on the draws behind those that were used, the user's own one first of all."""
    first = asked.config.draw + sum(len(each["draws"]) for each in record.rungs)
    draws = tuple(range(first, first + min(rung.draws, asked.draws)))
    return RungRun(rung, rounds_of(rung.share, asked.config.run.rounds), draws, tuple(field))


def _announce(asked: Asked, record: Record, run: RungRun, say: Say) -> None:
    say(
        f"rung {len(record.rungs)}: {counted(len(run.field), 'candidate')} on {counted(len(run.draws), 'draw')}, "
        f"{run.rounds} of {asked.config.run.rounds} rounds; {in_words(max(0.0, record.clock.left))} left"
    )


# ------------------------------------------------------------------------------------------------- a rung


def _cell(asked: Asked, place: Place, candidate: Candidate, rounds: int, draw: int) -> Cell:
    return trial(asked, candidate, rounds, draw, place.contents)


def _trials(asked: Asked, place: Place, run: RungRun) -> list[tuple[Candidate, Cell]]:
    """All trials of a rung, draw by draw, those of one rank together, which share what they load."""
    field = list(run.field)
    if run.rung.field != "entrants":
        field.sort(key=lambda candidate: candidate.kind.rank or 0)
    return [(who, _cell(asked, place, who, run.rounds, draw)) for draw in run.draws for who in field]


def _run(asked: Asked, place: Place, record: Record, run: RungRun, say: Say) -> dict[str, str]:
    """Run a rung's trials until they are done or the time is up; returns what failed, by candidate, and why."""
    failed: dict[str, str] = {}
    waiting = []
    for who, cell in _trials(asked, place, run):
        why = diverged(place.home, cell)
        if why is not None:
            failed.setdefault(who.label, why)
        elif not is_done(place.home, cell):
            waiting.append((who, cell))
    clock, began = record.clock, dict[int, float]()
    expected = sum(record.round_seconds(who.kind) * run.rounds for who, _ in waiting) / place.pool.workers
    until = clock.now + max(_OVERRUN * expected, _HALF * clock.left)
    if run.rung.keep == FINALISTS:
        until = clock.whole

    def jobs() -> Iterator[Job]:
        for number, (who, cell) in enumerate(waiting):
            seconds = record.round_seconds(who.kind) * run.rounds
            if clock.now + seconds > clock.whole or clock.now > until:
                return
            began[number] = clock.now
            yield {"config": resolved(cell.config), "folder": str(cell_folder(place.home, cell).absolute())}

    errors: dict[int, str] = {}
    for done, (number, told) in enumerate(place.pool.answers(jobs()), start=1):
        who, cell = waiting[number]
        record.took(who.kind, run.rounds, clock.now - began[number])
        record.write()
        error = str(told.get("error", ""))
        if error:
            errors[number] = error
        score = "failed" if error else _words(place, cell)
        say(f"  {who.label}, draw {cell.draw}: {score}  {done} of {len(waiting)}")
    for number in sorted(errors):  # whoever came first by the clock, the first trial of a candidate says why
        failed.setdefault(waiting[number][0].label, errors[number])
    return failed


def _words(place: Place, cell: Cell) -> str:
    metric = read_object(cell_folder(place.home, cell) / ENVIRONMENT, {"task": dict})["task"]["metrics"][0]
    value = goodness(cell_folder(place.home, cell))[0] * (1 if metric["higher_is_better"] else -1)
    return f"{100 * value:.1f} %" if metric["format"] == "percent" else f"{value:.3f}"


def _found(asked: Asked, place: Place, run: RungRun, failed: Mapping[str, str]) -> Tree:
    """What came of a rung: every trial's scores and costs."""
    trials: list[dict[str, Any]] = [{} for _ in run.field]
    metrics = None
    for who, cell in _trials(asked, place, run):
        if is_done(place.home, cell):
            folder = cell_folder(place.home, cell)
            metrics = metrics or read_object(folder / ENVIRONMENT, {"task": dict})["task"]
            lines = read_lines(folder / ROUNDS)
            sums = {key: sum(line.get(key, 0) for line in lines) for key in ("bytes_up", "bytes_down", "steps")}
            trials[run.field.index(who)][str(cell.draw)] = {"goodness": goodness(folder), **sums}
    return {"trials": trials, "failed": dict(sorted(failed.items())), "task": metrics}


def _require_some(record: Record, run: RungRun, best: Judged) -> None:
    """Refuse to go on where the first rung has told nothing.

    Raises:
        ConfigError: every candidate failed, or there was no time for one.
    """
    if best.best or len(record.rungs) > 1:
        return
    why = next(iter(record.rungs[-1]["failed"].values()), None)
    if why is not None:
        raise ConfigError(f"Every candidate failed: {why}")
    raise ConfigError(
        f"{record.clock.whole / 60:g} minutes were too few for one rung of {counted(len(run.field), 'candidate')}: "
        f"raise the minutes, or lower run.rounds or data.train_examples. What was finished is kept."
    )
