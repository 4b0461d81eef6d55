# SPDX-License-Identifier: Apache-2.0
"""What a race found, as one tree: who won, who came second, how sure that is, and every trial.

No time and no path is in it, so that equal races give equal bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from fedlora.app.config.paths import short_class_name
from fedlora.app.tune.asked import Asked
from fedlora.app.tune.candidates import Candidate, Kind
from fedlora.app.tune.plan import FINALISTS
from fedlora.app.tune.race import standing
from fedlora.app.tune.record import Record, Tree, rung_run_of
from fedlora.report.tables import size
from fedlora.report.task import MetricInfo, read_task
from fedlora.statistics.paired import compare_with

TOO_FEW = "no interval: two draws on the last rung would be needed, and the time was up before."


def found(asked: Asked, record: Record) -> Tree:
    """The contents of `results.json`.

    Args:
        asked: the question.
        record: of a race that has come to its end.
    """
    rungs = [tree for tree in record.rungs if tree["ended"] and standing(tree).best]
    several = [tree for tree in rungs if len(standing(tree).best) >= FINALISTS]
    decisive = (several or rungs)[-1]
    task = decisive["task"]
    metric = read_task({"task": task}).headline
    winner, runner_up = _first_two(standing(decisive).best)
    comparison = None if runner_up is None else _comparison(decisive, winner, runner_up, metric)
    tree: Tree = {
        "asked": {
            "minutes": asked.minutes,
            "judge": asked.judge,
            "budget": asked.budget,
            "rounds": asked.config.run.rounds,
            "methods": [short_class_name(name) for name in asked.methods],
            "ranks": list(asked.ranks),
            "rates": list(asked.rates),
            "draws": asked.draws,
        },
        "task": task,
        "planned": _short_names(record.tree["plan"]),
        "left_out": left_out(asked, record),
        "winner": _of(decisive, winner, metric),
        "runner_up": None if runner_up is None else _of(decisive, runner_up, metric),
        "comparison": comparison,
        "judged_after": {"rounds": decisive["rounds"], "draws": list(standing(decisive).draws)},
        "at_an_edge": _at_an_edge(record, winner),
        "notes": notes(asked),
        "trials": len(_trials(record)),
        "first_look": _rung(record.look, metric) if record.look is not None else None,
        "rungs": [_rung(rung, metric) for rung in record.rungs if rung["ended"]],
    }
    return tree


def _trials(record: Record) -> set[tuple[str, int, str]]:
    """Every trial once: a rung of as few rounds as the first look has the trials of that one."""
    looks = [record.look] if record.look is not None else []
    return {
        (candidate.label, rung["rounds"], draw)
        for rung in [*looks, *record.rungs]
        for candidate, by in zip(rung_run_of(rung).field, rung["trials"], strict=True)
        for draw in by
    }


def left_out(asked: Asked, record: Record) -> dict[str, str]:
    """Who did not enter, and why."""
    told = {short_class_name(name): why for name, why in asked.left_out.items()}
    told |= {short_class_name(name): why for name, why in record.refused.items()}
    for one in record.sends or ():
        label = Kind(one["method"], one["rank"]).label
        if one["error"] is not None:
            told[label] = one["error"]
        elif asked.budget is not None and one["bytes"] > asked.budget:
            told[label] = f"its {asked.config.run.rounds} rounds send {size(one['bytes'])}, more than the budget."
    return told | dict.fromkeys(map(short_class_name, record.tree["plan"]["no_time_for"]), "there was no time for it.")


def notes(asked: Asked) -> list[str]:
    """What has to be known to read the choice right."""
    data, split = asked.config.data, asked.config.split
    one_file = data.source == "files" and data.path is not None and Path(data.path).is_file()
    if not (one_file or split.test_by is not None or split.unseen is not None):
        return []
    return [
        "split.seed also draws which examples are tested, so that some of them trained or validated on other draws: "
        "test the winner on examples that stand in a file of their own."
    ]


def value_of(goodness: float, metric: MetricInfo) -> float:
    """A score as the metric has it."""
    return goodness if metric.higher_is_better else -goodness


def _first_two(best: Sequence[Candidate]) -> tuple[Candidate, Candidate | None]:
    """The winner, and the best one of another kind, or where there is none, the next."""
    winner, *others = best
    of_others = [candidate for candidate in others if candidate.kind != winner.kind]
    return winner, next(iter(of_others or others), None)


def _comparison(tree: Tree, winner: Candidate, runner_up: Candidate, metric: MetricInfo) -> Tree | None:
    """Winner minus runner-up, paired over the draws of the last rung; None: it was not reached, or had one draw.

    On earlier rungs the winner is the best of many on the very draws on which it would be judged.
    """
    counted = standing(tree).draws
    if tree["rung"]["keep"] != FINALISTS or len(counted) < 2:
        return None
    scores = {
        candidate.label: {draw: value_of(by[draw], metric) for draw in counted}
        for candidate, by in _goodness(tree).items()
        if candidate in (winner, runner_up)
    }
    (told,) = compare_with(runner_up.label, scores, metric.higher_is_better)
    return {key: value for key, value in asdict(told).items() if key not in ("method", "reference", "corrected")}


def _goodness(tree: Tree) -> dict[Candidate, dict[int, float]]:
    """The headline of each candidate of a rung, more is better, by draw."""
    field = rung_run_of(tree).field
    return {
        candidate: {int(draw): told["goodness"][0] for draw, told in by.items()}
        for candidate, by in zip(field, tree["trials"], strict=True)
    }


def _of(tree: Tree, candidate: Candidate, metric: MetricInfo) -> Tree:
    """A candidate with its mean score and what it cost on the rung that decided."""
    by = tree["trials"][rung_run_of(tree).field.index(candidate)]
    trials = [by[str(draw)] for draw in standing(tree).draws]
    return {
        **_named(candidate),
        "score": fmean(value_of(trial["goodness"][0], metric) for trial in trials),
        **{key: fmean(trial[key] for trial in trials) for key in ("bytes_up", "bytes_down", "steps")},
    }


def _named(candidate: Candidate) -> Tree:
    return {"label": candidate.label, **candidate.to_json(), "method": short_class_name(candidate.kind.method)}


def _short_names(plan: Mapping[str, Any]) -> Tree:
    return {**plan, "no_time_for": list(map(short_class_name, plan["no_time_for"]))}


def _at_an_edge(record: Record, winner: Candidate) -> str | None:
    """Whether the winner's rate is the lowest or the highest of three or more that its method tried."""
    tried = {
        candidate.rate.lr
        for rung in record.rungs
        for candidate, by in _goodness(rung).items()
        if candidate.kind.method == winner.kind.method and by
    }
    if len(tried) < 3 or winner.rate.lr not in (min(tried), max(tried)):
        return None
    return "lowest" if winner.rate.lr == min(tried) else "highest"


def _rung(tree: Tree, metric: MetricInfo) -> Tree:
    """A rung with all its trials, the best candidate first."""
    best = standing(tree)
    place = {candidate: number for number, candidate in enumerate(best.best)}
    field = sorted(enumerate(rung_run_of(tree).field), key=lambda pair: (place.get(pair[1], len(place)), pair[0]))
    return {
        "rounds": tree["rounds"],
        "draws": tree["draws"],
        "counted": list(best.draws) if best.best else [],
        "candidates": [
            {
                **_named(candidate),
                "counts": candidate in place,
                "failed": tree["failed"].get(candidate.label),
                "trials": [
                    {
                        "draw": int(draw),
                        "score": value_of(told["goodness"][0], metric),
                        **{key: told[key] for key in ("bytes_up", "bytes_down", "steps")},
                    }
                    for draw, told in tree["trials"][number].items()
                ],
            }
            for number, candidate in field
        ],
    }
