# SPDX-License-Identifier: Apache-2.0
"""What a study found, as one tree of JSON: every cell's scores and costs, every choice, and the tables.

No time and no path is in it, so that equal runs give equal bytes; times go to a file of their own.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedlora.app.study.cells import Cell, Contents, draws_and_seeds, reported_cells, tuning_cells
from fedlora.app.study.choice import Choice
from fedlora.app.study.compared import tables
from fedlora.app.study.plan import Study
from fedlora.app.study.runner import cell_folder, choices, is_done, rates
from fedlora.errors import RunFolderError
from fedlora.federation.files import write_json
from fedlora.federation.same_run import CLIENTS, ENVIRONMENT, ROUNDS, TIMINGS
from fedlora.run_files import read_lines, read_object
from fedlora.statistics.budgets import quantiles

RESULTS, TIMES = "results.json", "timings.json"
_QUANTILES = (0.1, 0.5, 0.9)
_SUMS = ("bytes_up", "bytes_down", "head_bytes_up", "head_bytes_down", "parameters_up", "steps")


def gather(study: Study, home: Path, contents: Contents) -> dict[str, Any]:
    """The contents of `results.json`, from the cells that are there.

    Raises:
        RunFolderError: no reported cell is finished, or one is damaged.
    """
    chosen = choices(study, home, contents)
    planned = reported_cells(study, rates(chosen), contents)
    done = [cell for cell in planned if is_done(home, cell)]
    if not done:
        raise RunFolderError(f"{home} has no finished cell of the study {study.about.name}, so there is no result yet.")
    environments = [read_object(cell_folder(home, cell) / ENVIRONMENT, {"task": dict}) for cell in done]
    lines = [cell_line(cell, home) for cell in done]
    task = environments[0]["task"]
    for cell, environment in zip(done, environments, strict=True):
        if environment["task"]["metrics"] != task["metrics"]:
            raise RunFolderError(f"{cell.label} measures other metrics than {done[0].label}: a study has one task.")
    return {
        "study": _about(study),
        "task": task,
        "environments": _distinct(environments),
        "missing": _missing(study, done),
        "tables": tables(study, task["metrics"], lines),
        "choices": [_choice(choice, task["metrics"][0]) for choice in chosen],
        "cells": lines,
    }


def times(study: Study, home: Path, contents: Contents) -> list[dict[str, Any]]:
    """The contents of `timings.json`: seconds of every finished cell, by what they went into."""
    cells = [("tuning", cell) for cell in tuning_cells(study, contents)]
    cells += [("reported", cell) for cell in reported_cells(study, rates(choices(study, home, contents)), contents)]
    return [{"part": part, **_name(cell), **seconds_of(cell, home)} for part, cell in cells if is_done(home, cell)]


def write_results(study: Study, home: Path, contents: Contents) -> tuple[Path, dict[str, Any]]:
    """Write `results.json` and `timings.json`; returns their folder and the results."""
    folder = home / study.folder_name
    found = gather(study, home, contents)
    write_json(folder / RESULTS, found)
    write_json(folder / TIMES, times(study, home, contents))
    return folder, found


def seconds_of(cell: Cell, home: Path) -> dict[str, float]:
    """Wall seconds of a cell's rounds, by what they went into."""
    lines = read_lines(cell_folder(home, cell) / TIMINGS)
    return {name: sum(float(line.get(name, 0.0)) for line in lines) for name in ("train", "evaluate")}


def cell_line(cell: Cell, home: Path) -> dict[str, Any]:
    """One finished cell: its last scores, what it cost, and its curve."""
    folder = cell_folder(home, cell)
    rounds = read_lines(folder / ROUNDS, {"round": int})
    last = next((line for line in reversed(rounds) if line["personal"] or line["global"]), None)
    scored = last["round"] if last else None
    clients = [line for line in read_lines(folder / CLIENTS) if line["round"] == scored and line["score"] is not None]
    environment = read_object(folder / ENVIRONMENT, {"learning_rates": dict})
    scores = [float(line["score"]) for line in clients]
    summary = read_object(folder / "summary.json")
    return {
        **_name(cell),
        "rounds": len(rounds),
        "learning_rates": environment["learning_rates"],
        "rank": summary["rank"],
        "scale": environment["scale"],
        "global": last["global"] if last else None,
        "personal": last["personal"] if last else None,
        "intervals": summary.get("intervals"),
        "clients": dict(zip(map(str, _QUANTILES), quantiles(scores, _QUANTILES), strict=True)) if scores else None,
        **{key: sum(line.get(key, 0) for line in rounds) for key in _SUMS},
        "curve": _curve(rounds),
    }


def _curve(rounds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The scores of every evaluation, with what had been spent by then."""
    curve, spent = [], dict.fromkeys(("bytes_up", "bytes_down", "steps"), 0)
    for line in rounds:
        spent = {key: value + line.get(key, 0) for key, value in spent.items()}
        if line["personal"] or line["global"]:
            curve.append({"round": line["round"], **spent, "global": line["global"], "personal": line["personal"]})
    return curve


def _name(cell: Cell) -> dict[str, Any]:
    return {"setting": cell.setting, "variant": cell.variant, "draw": cell.draw, "seed": cell.seed, "lr": cell.rate.lr}


def _about(study: Study) -> dict[str, Any]:
    about, tuning = study.about, study.tuning
    return {
        "name": about.name,
        "size": study.size,
        "description": about.description,
        "reference": about.reference,
        "settings": [setting.name for setting in study.settings],
        "variants": [variant.name for variant in study.variants],
        "bounds": [variant.name for variant in study.variants if variant.bound],
        "draws": list(about.reported_draws),
        "seed": about.seed,
        "extra_seeds": list(about.extra_seeds),
        "repeated": about.repeated,
        "tuning_draws": list(tuning.draws) if tuning else [],
    }


def _distinct(environments: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The machines, versions and bases of all cells; more than one stand in a table only where somebody mixed them."""
    found: list[dict[str, Any]] = []
    for environment in environments:
        told = {key: environment.get(key) for key in ("python", "platform", "base", "base_fingerprint", "packages")}
        if told not in found:
            found.append(told)
    return found


def _missing(study: Study, done: Sequence[Cell]) -> list[dict[str, Any]]:
    """Reported cells that are not there. Why is told where the study is run: a sentence may name folders."""
    there = {(cell.setting, cell.variant, cell.draw, cell.seed) for cell in done}
    about, found = study.about, []
    for setting, variant in study.pairs:
        for draw, seed in draws_and_seeds(about):
            place = (setting.name, variant.name, draw, seed + variant.seed_offset)
            if place not in there:
                found.append(dict(zip(("setting", "variant", "draw", "seed"), place, strict=True)))
    return found


def _choice(choice: Choice, headline: Mapping[str, Any]) -> dict[str, Any]:
    """A choice; scores as the metric has them."""
    sign = 1.0 if headline["higher_is_better"] else -1.0
    return {
        "setting": choice.unit.setting,
        "variant": choice.unit.variant,
        "lr": choice.rate.lr if choice.rate else None,
        "lr_b_ratio": choice.rate.ratio if choice.rate else None,
        "at_an_edge": choice.at_an_edge,
        "tried": [
            {
                "lr": rate.lr,
                "lr_b_ratio": rate.ratio,
                "scores": [None if score is None else sign * score for score in scores],
            }
            for rate, scores in choice.tried.items()
        ],
    }
