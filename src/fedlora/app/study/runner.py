# SPDX-License-Identifier: Apache-2.0
"""Running a study: the tuning cells, the choice of rates, the reported cells; nothing is run twice."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedlora.app.compare.compare import goodness
from fedlora.app.config.schema import resolved
from fedlora.app.config.sections import tree_of
from fedlora.app.run.run import is_finished
from fedlora.app.study.cells import Cell, Contents, Unit, of_shard, reported_cells, tuning_cells, units
from fedlora.app.study.choice import Choice, Trial, choose
from fedlora.app.study.plan import Rate, Study
from fedlora.app.study.pool import Pool
from fedlora.app.study.worker import DIVERGED
from fedlora.errors import RunFolderError
from fedlora.federation.same_run import CONFIG
from fedlora.run_files import read_object, read_toml

CELLS = "cells"
"""Below the folder of all studies: the runs, one folder each, which studies share."""
_MAY_DIFFER = {"run": {"name"}, "data": {"path"}, "model": {"base"}, "adapter": {"start"}, "method": {"name"}}
"""Keys that a finished cell may have otherwise: paths are told by content in its name."""


@dataclass(frozen=True, slots=True)
class Step:
    """A cell came to an end."""

    part: str
    """tuning or reported."""
    cell: Cell
    error: str
    """Why it could not be run; empty: it could."""
    left: Sequence[Cell]
    """Cells of this part that are still to be run, those under way included."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where cells are run and kept."""

    home: Path
    """The folder of all studies."""
    contents: Contents
    """See `cell_key`."""
    pool: Pool
    """By what cells are run; nothing but time depends on it."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a call of `perform` came to."""

    failed: Mapping[str, str]
    """By the cell's label, why it could not be run."""


def cell_folder(home: Path, cell: Cell) -> Path:
    """Where a cell is kept below the folder of all studies."""
    return home / CELLS / cell.key


def is_done(home: Path, cell: Cell) -> bool:
    """Whether a cell has been run to its end.

    Raises:
        RunFolderError: what is there was run with other settings than it would be now, or is damaged.
    """
    folder = cell_folder(home, cell)
    if not is_finished(folder, cell.config.run.rounds):
        return False
    now = tree_of(cell.config)
    for section, keys in read_toml(folder / CONFIG).items():
        for key, was in keys.items() if isinstance(keys, dict) else ():
            value = (now.get(section) or {}).get(key)
            if key not in _MAY_DIFFER.get(section, ()) and value != was:
                raise RunFolderError(
                    f"{folder} was run with {section}.{key} = {was!r}, which is {value!r} now: a default has changed "
                    f"since. Choose another --out, or remove this folder."
                )
    return True


def diverged(home: Path, cell: Cell) -> str | None:
    """Why a cell's training cannot come to its end, if it was seen to leave the finite numbers."""
    path = cell_folder(home, cell) / DIVERGED
    return str(read_object(path, {"error": str})["error"]) if path.is_file() else None


def choices(study: Study, home: Path, contents: Contents) -> list[Choice]:
    """The rates of all units whose tuning cells have come to an end."""
    if study.tuning is None:
        return []
    trials = []
    for cell in tuning_cells(study, contents):
        if is_done(home, cell):
            trials.append(Trial(cell, tuple(goodness(cell_folder(home, cell)))))
        elif diverged(home, cell) is not None:
            trials.append(Trial(cell, None))
    return choose(study, trials)


def rates(chosen: Sequence[Choice]) -> dict[Unit, Rate]:
    """The rates that were chosen; units without one are left out."""
    return {choice.unit: choice.rate for choice in chosen if choice.rate is not None}


def perform(study: Study, place: Place, shard: tuple[int, int], follow: Callable[[Step], object]) -> Work:
    """Run all cells of a study, or of one shard of it, that have not been run.

    Args:
        study: the study.
        place: where.
        shard: which of how many, from 1.
        follow: is told of every cell that came to an end.
    """
    ours = set(of_shard(units(study), *shard))
    tuning = [cell for cell in tuning_cells(study, place.contents) if _unit(study, cell) in ours]
    failed = _run(place, "tuning", tuning, follow)
    chosen = choices(study, place.home, place.contents)
    if study.tuning is not None:
        told = {choice.unit: choice.rate for choice in chosen}
        given = {variant.name for variant in study.variants if variant.given is not None}
        for unit in [unit for unit in units(study) if unit in ours and unit.variant not in given]:
            if unit not in told:
                failed[unit.label] = "no rate could be chosen, since tuning cells failed."
            elif told[unit] is None:
                failed[unit.label] = "its training diverged at every rate; try lower ones (tuning.lr)."
    cells = [cell for cell in reported_cells(study, rates(chosen), place.contents) if _unit(study, cell) in ours]
    return Work(failed | _run(place, "reported", cells, follow))


def _unit(study: Study, cell: Cell) -> Unit:
    return Unit(study.tuning_setting(cell.setting), cell.variant)


def _run(place: Place, part: str, cells: Sequence[Cell], follow: Callable[[Step], object]) -> dict[str, str]:
    """Run what is not done; returns what failed, and why."""
    failed: dict[str, str] = {}
    left: dict[str, Cell] = {}
    for cell in cells:
        why = diverged(place.home, cell)
        if why is not None:
            failed[cell.label] = why
        elif cell.key not in left and not is_done(place.home, cell):
            left[cell.key] = cell
    begun = list(left.values())
    folders = [str(cell_folder(place.home, cell).absolute()) for cell in begun]
    jobs = [{"config": resolved(cell.config), "folder": folder} for cell, folder in zip(begun, folders, strict=True)]
    for number, told in place.pool.answers(jobs):
        cell, error = left.pop(begun[number].key), str(told.get("error", ""))
        if error:
            failed[cell.label] = error
        follow(Step(part, cell, error, list(left.values())))
    return failed
