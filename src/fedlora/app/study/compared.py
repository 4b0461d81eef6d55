# SPDX-License-Identifier: Apache-2.0
"""The tables of a study: for each setting one of global and one of personal models, which are never ranked together.

Everything is told of the cells with the first training seed, paired over draws; the extra seeds serve the shares of
variance alone.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any, Literal

from fedlora.app.study.plan import Setting, Study, Variant
from fedlora.statistics.budgets import cost_to, quality_under
from fedlora.statistics.paired import LEVEL, Comparison, compare_with, interval
from fedlora.statistics.variance import shares

Line = Mapping[str, Any]
"""A cell, as `results.json` has it."""
Scores = Literal["global", "personal"]
_NAMES = 1.01
"""So much more than the cheapest one's bytes counts as equal: what names the tensors differs by a few bytes."""


def tables(study: Study, metrics: Sequence[Mapping[str, Any]], lines: Sequence[Line]) -> list[dict[str, Any]]:
    """All tables, global before personal models within each setting; one without any score is left out.

    Args:
        study: the study.
        metrics: of its task, the headline first, as `environment.json` has them.
        lines: the finished cells.
    """
    found = []
    for setting in study.settings:
        for whose in ("global", "personal"):
            of_setting = [line for line in lines if line["setting"] == setting.name and line[whose]]
            if of_setting:
                found.append(_table(study, setting, whose, metrics, of_setting))
    return found


def score_of(line: Line, whose: Scores, headline: str) -> float:
    """The headline of a cell or of a point of its curve; of personal models the mean over clients."""
    return float(line[whose]["mean" if whose == "personal" else headline])


def _table(
    study: Study, setting: Setting, whose: Scores, metrics: Sequence[Mapping[str, Any]], lines: Sequence[Line]
) -> dict[str, Any]:
    headline = metrics[0]
    first = {
        variant.name: {line["draw"]: line for line in lines if _is(line, variant, study.about.seed)}
        for variant in study.variants
    }
    variants = [variant for variant in study.variants if first[variant.name]]
    ranked = [variant.name for variant in variants if not variant.bound]
    compared = _compared(study, headline, whose, {name: first[name] for name in ranked})
    least = {
        key: {draw: _least(first, ranked, draw, cost) for draw in study.about.reported_draws}
        for key, cost in (("equal_bytes", _bytes), ("equal_steps", _steps))
    }
    rows = []
    for variant in variants:
        cells = first[variant.name]
        score = {draw: score_of(line, whose, headline["name"]) for draw, line in cells.items()}
        rows.append(
            {
                "variant": variant.name,
                "bound": variant.bound,
                "draws": len(cells),
                **_mean_and_interval(list(score.values())),
                "worst_tenth": _mean([line["personal"]["worst_tenth"] for line in cells.values()], whose),
                "clients": _clients(cells.values(), whose),
                "others": _others(cells.values(), whose, metrics),
                "over_examples": _over_examples(cells.values(), whose),
                "comparison": compared.get(variant.name),
                **{name: fmean(line[name] for line in cells.values()) for name in ("bytes_up", "bytes_down", "steps")},
                "equal_bytes": _within(cells, whose, headline["name"], least["equal_bytes"], _bytes),
                "equal_steps": _within(cells, whose, headline["name"], least["equal_steps"], _steps),
                "budgets": [
                    _within(cells, whose, headline["name"], dict.fromkeys(cells, float(budget)), _bytes)
                    for budget in study.about.budgets
                ],
                "targets": [_cost(cells, whose, headline, target) for target in study.about.targets],
                "learning_rates": next(iter(cells.values()))["learning_rates"],
            }
        )
    return {
        "setting": setting.name,
        "scores": whose,
        "metric": headline["name"],
        "reference": study.about.reference if study.about.reference in ranked else None,
        "level": LEVEL,
        "comparisons": len(compared),
        "equal_bytes": _mean_of(least["equal_bytes"].values()),
        "equal_steps": _mean_of(least["equal_steps"].values()),
        "budgets": list(study.about.budgets),
        "targets": list(study.about.targets),
        "variance": _shares(study, whose, headline["name"], lines, ranked),
        "rows": rows,
    }


def _is(line: Line, variant: Variant, seed: int) -> bool:
    return bool(line["variant"] == variant.name and line["seed"] == seed + variant.seed_offset)


def _compared(
    study: Study, headline: Mapping[str, Any], whose: Scores, first: Mapping[str, Mapping[int, Line]]
) -> dict[str, dict[str, Any]]:
    """The comparisons with the reference, of variants that have two draws in common with it."""
    reference = study.about.reference
    if reference not in first:
        return {}
    scores = {
        name: {draw: score_of(line, whose, headline["name"]) for draw, line in cells.items()}
        for name, cells in first.items()
        if len(cells.keys() & first[reference].keys()) >= 2
    }
    if reference not in scores:
        return {}
    return {each.method: _told(each) for each in compare_with(reference, scores, bool(headline["higher_is_better"]))}


def _told(comparison: Comparison) -> dict[str, Any]:
    told = asdict(comparison)
    del told["method"], told["reference"]
    return told


def _mean_and_interval(values: Sequence[float]) -> dict[str, float | None]:
    low, high = interval(values) if len(values) > 1 else (None, None)
    return {"mean": fmean(values), "low": low, "high": high}


def _mean(values: Sequence[float], whose: Scores) -> float | None:
    return fmean(values) if whose == "personal" else None


def _clients(cells: "Sequence[Line] | Any", whose: Scores) -> dict[str, float] | None:
    """Quantiles over the clients, mean over draws; they are of the clients' models."""
    told = [line["clients"] for line in cells if line["clients"]]
    if whose == "global" or not told:
        return None
    return {name: fmean(each[name] for each in told) for name in told[0]}


def _others(cells: "Sequence[Line] | Any", whose: Scores, metrics: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The other metrics, mean over draws; those of personal models are over all test examples."""
    lines = list(cells)
    names = [metric["name"] for metric in metrics[1:]]
    return {name: fmean(line[whose][name] for line in lines) for name in names if all(name in x[whose] for x in lines)}


def _over_examples(cells: "Sequence[Line] | Any", whose: Scores) -> dict[str, list[float]] | None:
    """Of the one draw of a demonstration, what intervals its scores have over other test examples, by metric."""
    lines = list(cells)
    told = lines[0]["intervals"] if len(lines) == 1 else None
    return told.get(whose) if told else None


def _bytes(line: Line) -> float:
    return float(line["bytes_up"] + line["bytes_down"])


def _steps(line: Line) -> float:
    return float(line["steps"])


def _least(
    first: Mapping[str, Mapping[int, Line]], ranked: Sequence[str], draw: int, cost: Callable[[Line], float]
) -> float | None:
    """The least that a ranked variant spent on a draw, of those that spend anything."""
    spent = [cost(first[name][draw]) for name in ranked if draw in first[name]]
    return min((each for each in spent if each), default=None)


def _mean_of(values: "Sequence[float | None] | Any") -> float | None:
    there = [value for value in values if value is not None]
    return fmean(there) if there else None


def _within(
    cells: Mapping[int, Line],
    whose: Scores,
    headline: str,
    budgets: Mapping[int, float | None],
    cost: Callable[[Line], float],
) -> float | None:
    """Mean over draws of the last score within the budget; None: on some draw it pays for no evaluation."""
    found = []
    for draw, line in cells.items():
        curve = [(cost(point), score_of(point, whose, headline)) for point in line["curve"] if point[whose]]
        budget = budgets[draw]
        found.append(None if budget is None else quality_under(curve, budget * _NAMES))
    told = [value for value in found if value is not None]
    return fmean(told) if told and len(told) == len(found) else None


def _cost(cells: Mapping[int, Line], whose: Scores, headline: Mapping[str, Any], target: float) -> dict[str, Any]:
    """What it cost to reach a target: on how many draws that was, and the means over these."""
    costs: dict[str, Callable[[Line], float]] = {
        "rounds": lambda line: float(line["round"]),
        "bytes": _bytes,
        "steps": _steps,
    }
    told: dict[str, Any] = {"target": target, "reached": 0}
    for name, cost in costs.items():
        found = []
        for line in cells.values():
            curve = [(cost(at), score_of(at, whose, headline["name"])) for at in line["curve"] if at[whose]]
            found.append(cost_to(curve, target, bool(headline["higher_is_better"])))
        there = [value for value in found if value is not None]
        told |= {"reached": len(there), name: fmean(there) if there else None}
    return told


def _shares(
    study: Study, whose: Scores, headline: str, lines: Sequence[Line], ranked: Sequence[str]
) -> dict[str, Any] | None:
    """Shares of the variance over the ranked variants that have all draws; None: there are not two of each."""
    scores = {
        (line["variant"], line["draw"], line["seed"]): score_of(line, whose, headline)
        for line in lines
        if line["variant"] in ranked
    }
    draws = set(study.about.reported_draws)
    whole = [name for name in ranked if {draw for variant, draw, _ in scores if variant == name} == draws]
    if len(whole) < 2 or len(draws) < 2:
        return None
    told = asdict(shares({key: value for key, value in scores.items() if key[0] in whole}))
    return {"variants": whole} | {name: None if math.isnan(value) else value for name, value in told.items()}
