# SPDX-License-Identifier: Apache-2.0
"""What a study would cost: cells, hours and bytes, from cells that have been run or from a dry run of one of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from fedlora.app.config.schema import resolved
from fedlora.app.study.cells import Cell, Contents, Unit, of_shard, reported_cells, tuning_cells, units
from fedlora.app.study.plan import Rate, Study
from fedlora.app.study.pool import Pool
from fedlora.app.study.results import seconds_of
from fedlora.app.study.runner import cell_folder, choices, is_done, rates
from fedlora.errors import ConfigError
from fedlora.federation.same_run import ROUNDS
from fedlora.run_files import read_lines


@dataclass(frozen=True, slots=True)
class Cost:
    """What a cell takes."""

    seconds: float
    bytes: float
    """Up and down."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a study, or a shard of it, would cost."""

    tuning: int
    """Cells from which rates are chosen."""
    reported: int
    done: int
    """Cells of both kinds that are there already."""
    measured: int
    """Cells that are left whose time is that of like ones that were run; of the others it is a dry run's."""
    seconds: float
    """Of all cells that are left, one after another."""
    bytes: float
    """That all cells together send up and down, those that are there included."""


def estimate(study: Study, home: Path, contents: Contents, workers: int, shard: tuple[int, int]) -> Estimate:
    """What a study would cost. Nothing is written.

    Raises:
        ConfigError: a cell cannot be run; the sentence says why.
    """
    ours = set(of_shard(units(study), *shard))
    tuning = [cell for cell in _distinct(tuning_cells(study, contents)) if _unit(study, cell) in ours]
    chosen = rates(choices(study, home, contents))
    likely = {unit: chosen.get(unit, rate) for unit, rate in _first_rates(study).items()}
    reported = [cell for cell in _distinct(reported_cells(study, likely, contents)) if _unit(study, cell) in ours]
    kinds = [(cell, is_done(home, cell)) for cell in [*tuning, *reported]]
    measured: dict[tuple[str, str, int], list[Cost]] = {}
    for cell, done in kinds:
        if done:
            measured.setdefault(_like(cell), []).append(_cost_of(cell, home))
    unknown: dict[tuple[str, str, int], Cell] = {}
    for cell, _ in kinds:
        if _like(cell) not in measured:
            unknown.setdefault(_like(cell), cell)
    costs = {like: Cost(fmean(c.seconds for c in of), fmean(c.bytes for c in of)) for like, of in measured.items()}
    costs |= _dry(list(unknown.values()), workers)
    left = [cell for cell, done in kinds if not done]
    return Estimate(
        tuning=len(tuning),
        reported=len(reported),
        done=len(kinds) - len(left),
        measured=sum(_like(cell) in measured for cell in left),
        seconds=sum(costs[_like(cell)].seconds for cell in left),
        bytes=sum(costs[_like(cell)].bytes for cell, _ in kinds),
    )


def _first_rates(study: Study) -> dict[Unit, Rate]:
    """A rate for every unit: what a cell takes does not depend on it."""
    if study.tuning is None:
        return {}
    first = {variant.name: variant.rates[0] for variant in study.variants if variant.rates}
    return {unit: first[unit.variant] for unit in units(study) if unit.variant in first}


def _distinct(cells: Sequence[Cell]) -> list[Cell]:
    return list({cell.key: cell for cell in reversed(cells)}.values())[::-1]


def _unit(study: Study, cell: Cell) -> Unit:
    return Unit(study.tuning_setting(cell.setting), cell.variant)


def _like(cell: Cell) -> tuple[str, str, int]:
    """What cells that take about the same have in common."""
    return cell.setting, cell.variant, cell.config.run.rounds


def _cost_of(cell: Cell, home: Path) -> Cost:
    lines = read_lines(cell_folder(home, cell) / ROUNDS)
    return Cost(sum(seconds_of(cell, home).values()), sum(line["bytes_up"] + line["bytes_down"] for line in lines))


def _dry(cells: Sequence[Cell], workers: int) -> dict[tuple[str, str, int], Cost]:
    """Dry runs. Of cells that differ in their rounds alone the longest is timed, and bytes are counted of all."""
    longest: dict[tuple[str, str], Cell] = {}
    for cell in sorted(cells, key=lambda cell: cell.config.run.rounds):
        longest[cell.setting, cell.variant] = cell
    timed = [cell is longest[cell.setting, cell.variant] for cell in cells]
    jobs = [
        {"config": resolved(c.config)} | ({} if t else {"only": "bytes"}) for c, t in zip(cells, timed, strict=True)
    ]
    told: dict[int, dict[str, Any]] = {}
    with Pool(workers) as pool:
        for number, answer in pool.answers(jobs):
            if "error" in answer:
                raise ConfigError(f"The cell {cells[number].label} cannot be run: {answer['error']}")
            told[number] = answer
    seconds = {
        (cell.setting, cell.variant): told[number]["seconds"] / cell.config.run.rounds
        for number, cell in enumerate(cells)
        if timed[number]
    }
    return {
        _like(cell): Cost(
            cell.config.run.rounds * seconds[cell.setting, cell.variant],
            told[number]["bytes_up"] + told[number]["bytes_down"],
        )
        for number, cell in enumerate(cells)
    }
