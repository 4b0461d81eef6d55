# SPDX-License-Identifier: Apache-2.0
"""The race: rung after rung, each candidate on the same draws, until two are left or the time is up."""

from collections.abc import Callable, Iterator, Mapping
from statistics import fmean
from typing import Any

from fedlora.app.compare.compare import goodness
from fedlora.app.config.schema import resolved
from fedlora.app.run.duration import in_words
from fedlora.app.study.cells import Cell
from fedlora.app.study.pool import Job
from fedlora.app.study.runner import Place, cell_folder, diverged, is_done
from fedlora.app.tune.asked import Asked
from fedlora.app.tune.before import FIRST_LOOK, first_look, first_rung, mean_cost, sent_by_all
from fedlora.app.tune.candidates import Candidate, kinds, trial
from fedlora.app.tune.plan import FINALISTS, Pace, last_draws, rest, rounds_of
from fedlora.app.tune.record import Record, RungRun, Tree, rung_run_of
from fedlora.app.tune.selection import Judged, judged, next_field
from fedlora.errors import ConfigError
from fedlora.federation.same_run import ENVIRONMENT, ROUNDS, TIMINGS
from fedlora.report.tables import counted
from fedlora.run_files import read_lines, read_object

Say = Callable[[str], object]
_OVERRUN, _HALF, _QUARTER = 1.5, 0.5, 0.25
"""A rung before the last may take so many times what it was expected to, and half of the time that is left anyway; the
first look, a quarter."""


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
    if record.sends is None:
        record.tree["sends"] = sent_by_all(asked, place, say)
        record.write()
    if record.look is None:
        record.tree["look"] = _look(asked, place, record, say)
        record.write()
    if not record.rungs:
        seen = [candidate.kind.method for candidate in standing(record.look or {}).best]
        record.begin(first_rung(asked, record, seen, place.pool.workers, say))
    while True:
        run = rung_run_of(record.rungs[-1])
        if not record.rungs[-1]["ended"]:
            left = in_words(max(0.0, record.clock.left))
            say(
                f"rung {len(record.rungs)}: {_size(run)}, {run.rounds} of {asked.config.run.rounds} rounds; {left} left"
            )
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


def _size(run: RungRun) -> str:
    return f"{counted(len(run.field), 'candidate')} on {counted(len(run.draws), 'draw')}"


def _look(asked: Asked, place: Place, record: Record, say: Say) -> Tree:
    """Try every method in short: does it run, what does a round of it take, and whom to keep where time is short.

    Raises:
        ConfigError: none can, or there is no time to see it.
    """
    run = first_look(asked, record)
    say(f"a first look: {_size(run)}, {counted(run.rounds, 'round')}")
    failed = _run(asked, place, record, run, say)
    by_label = {candidate.label: candidate.kind.method for candidate in run.field}
    # a training that diverges in two rounds at this rate may do well at a lower one
    refused = {by_label[label]: why for label, why in failed.items() if not _diverges(asked, place, run, label)}
    if len(refused) == len(run.field):
        raise ConfigError(f"No candidate can be run: {next(iter(refused.values()))}")
    return {**run.to_json(), **_found(asked, place, run, failed), "refused": refused}


def _diverges(asked: Asked, place: Place, run: RungRun, label: str) -> bool:
    return any(diverged(place.home, cell) for who, cell in _trials(asked, place, run) if who.label == label)


def _next(asked: Asked, place: Place, record: Record, run: RungRun, best: Judged) -> RungRun | None:
    """The rung that follows; None: there is no time for one, or nobody to meet the best."""
    pace = Pace(asked.config.run.rounds, record.load(place.pool.workers), place.pool.workers)
    cost = mean_cost(record, best.best[: max(1, len(best.best) // 2)])
    seconds = record.clock.left * pace.workers
    rungs = rest(len(record.rungs), run.rung.share, cost, pace, seconds)
    rung, allowed = rungs[0], record.allowed(asked.budget, kinds(asked))
    field = next_field(asked, rung, best.best, allowed)
    if rung.field == "kinds" and len(field) == FINALISTS:
        rung = rungs[-1]
    draws = min(rung.draws, asked.draws)
    if rung.keep == FINALISTS:
        draws = last_draws(asked.draws, mean_cost(record, field), pace, seconds)
    if len(field) < FINALISTS or (rung.keep == FINALISTS and draws < 2):
        return None
    first = asked.config.draw + sum(len(each["draws"]) for each in record.rungs)
    shown = tuple(range(first, first + draws))  # none of them was used before
    return RungRun(rung, rounds_of(rung.share, pace.rounds), shown, tuple(field))


# ------------------------------------------------------------------------------------------------- a rung


def _trials(asked: Asked, place: Place, run: RungRun) -> list[tuple[Candidate, Cell]]:
    """All trials of a rung, draw by draw: what is loaded for a draw serves them all."""
    return [(who, trial(asked, who, run.rounds, draw, place.contents)) for draw in run.draws for who in run.field]


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
    clock, workers = record.clock, place.pool.workers
    loading: set[int] = set()
    cost = fmean(record.round_seconds(who.kind) for who, _ in waiting) if waiting else 0.0
    pace = Pace(asked.config.run.rounds, record.load(workers), workers)
    expected = pace.seconds(len(run.field), cost, len(run.draws), run.rung.share) / workers
    until = clock.now + max(_OVERRUN * expected, _HALF * clock.left)
    if run.rung == FIRST_LOOK:
        until = clock.now + _QUARTER * clock.left
    if run.rung.keep == FINALISTS:
        until = clock.whole

    def jobs() -> Iterator[Job]:
        begun: dict[int, int] = {}
        for number, (who, cell) in enumerate(waiting):
            begun[cell.draw] = begun.get(cell.draw, 0) + 1
            if begun[cell.draw] <= workers:  # each process loads what a draw needs
                loading.add(number)
            seconds = record.round_seconds(who.kind) * run.rounds
            seconds += record.load(workers) if number in loading else 0.0
            if clock.now + seconds > clock.whole or clock.now > until:
                return
            yield {"config": resolved(cell.config), "folder": str(cell_folder(place.home, cell).absolute())}

    errors: dict[int, str] = {}
    for done, (number, told) in enumerate(place.pool.answers(jobs()), start=1):
        who, cell = waiting[number]
        error = str(told.get("error", ""))
        if error:
            errors[number] = error
        else:
            a_round = _a_round(place, cell)
            record.took(who.kind, run.rounds, a_round)
            if number in loading:
                record.loaded(max(0.0, told["seconds"] - a_round * run.rounds))
        record.write()
        score = "failed" if error else _words(place, cell)
        say(f"  {who.label}, draw {cell.draw}: {score}  {done} of {len(waiting)}")
    for number in sorted(errors):  # whoever came first by the clock, the first trial of a candidate says why
        failed.setdefault(waiting[number][0].label, errors[number])
    return failed


def _a_round(place: Place, cell: Cell) -> float:
    """Seconds of a round of a cell that was run: without the first, in which much is made that later ones have."""
    lines = read_lines(cell_folder(place.home, cell) / TIMINGS, {"train": float})
    return fmean(float(line["train"]) for line in lines[1:] or lines)


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
