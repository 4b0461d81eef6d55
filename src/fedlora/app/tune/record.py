# SPDX-License-Identifier: Apache-2.0
"""Where a race is, in a file that is whole at any kill: what was asked, planned and found, and the time that it took.

Whoever goes on reads decisions from here and does not make them again, since they were made by the clock.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from fedlora.app.tune.candidates import Candidate, Kind, candidate_of
from fedlora.app.tune.plan import Rung
from fedlora.errors import RunFolderError
from fedlora.federation.files import write_json
from fedlora.run_files import read_object

RACE = "race.json"
Tree = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RungRun:
    """A rung as it is run."""

    rung: Rung
    rounds: int
    draws: tuple[int, ...]
    field: tuple[Candidate, ...]

    def to_json(self) -> Tree:
        """As a tree; the inverse of `rung_run_of`."""
        rung = {"field": self.rung.field, "keep": self.rung.keep, "share": self.rung.share, "draws": self.rung.draws}
        return {
            "rung": rung,
            "rounds": self.rounds,
            "draws": list(self.draws),
            "field": [candidate.to_json() for candidate in self.field],
        }


def rung_run_of(tree: Mapping[str, Any]) -> RungRun:
    """A rung from its tree."""
    return RungRun(
        Rung(**tree["rung"]), tree["rounds"], tuple(tree["draws"]), tuple(candidate_of(each) for each in tree["field"])
    )


@dataclass
class Clock:
    """The time of a race over all calls that worked on it, in seconds."""

    whole: float
    spent: float
    """Before this call."""
    began: float = field(default_factory=time.monotonic)

    @property
    def now(self) -> float:
        """Since the race began."""
        return self.spent + time.monotonic() - self.began

    @property
    def left(self) -> float:
        """Until the time is up."""
        return self.whole - self.now


class Record:
    """A race's file; every change is on disk before anything builds on it.

    Args:
        folder: where it is.
        asked: see `Asked.identity`.
        seconds: that the race may take.

    Raises:
        RunFolderError: the folder is of another config, or its file is damaged.
    """

    def __init__(self, folder: Path, asked: Mapping[str, Any], seconds: float) -> None:
        self.path = folder / RACE
        self.tree: Tree = {
            "asked": dict(asked),
            "spent": 0.0,
            "took": {},
            "loads": [],
            "sends": None,
            "look": None,
            "plan": None,
            "rungs": [],
        }
        if self.path.is_file():
            there = read_object(self.path, {"asked": dict, "spent": float, "took": dict, "rungs": list})
            if there["asked"].get("config") != asked["config"]:
                raise RunFolderError(f"{folder} holds the tuning of another config: choose another folder with --out.")
            if there["asked"] == asked:
                self.tree = there
        self.clock = Clock(seconds, self.tree["spent"])

    def write(self) -> None:
        """Put it on disk, with the time until now."""
        self.tree["spent"] = self.clock.now
        write_json(self.path, self.tree)

    # ------------------------------------------------------------------------------------------ before

    @property
    def sends(self) -> list[Tree] | None:
        """What each kind sends in all rounds: method, rank, bytes, error; empty without a budget; None: not known."""
        sends: list[Tree] | None = self.tree["sends"]
        return sends

    def allowed(self, budget: int | None, all_kinds: Iterable[Kind]) -> list[Kind]:
        """Kinds that send no more than the budget; without one, all."""
        if budget is None:
            return list(all_kinds)
        fits = {(e["method"], e["rank"]) for e in self.sends or () if e["error"] is None and e["bytes"] <= budget}
        return [kind for kind in all_kinds if (kind.method, kind.rank) in fits]

    @property
    def look(self) -> Tree | None:
        """What came of a first short trial of every method, as a rung that has ended; None: there was none yet."""
        look: Tree | None = self.tree["look"]
        return look

    @property
    def refused(self) -> dict[str, str]:
        """Methods that cannot run, as their first trial showed, and why."""
        refused: dict[str, str] = self.look["refused"] if self.look is not None else {}
        return refused

    # ------------------------------------------------------------------------------------------ time

    def took(self, kind: Kind, rounds: int, a_round: float) -> None:
        """Note what a round of a trial took, in seconds."""
        before = self.tree["took"].get(kind.label, [0.0, 0, kind.method])
        self.tree["took"][kind.label] = [before[0] + a_round * rounds, before[1] + rounds, kind.method]

    def loaded(self, seconds: float) -> None:
        """Note what the first trial of a process on a draw took besides its rounds."""
        self.tree["loads"].append(seconds)

    def load(self, workers: int) -> float:
        """What a process takes on a new draw besides its rounds: seconds. The first time says little: it imports."""
        loads = self.tree["loads"][workers:] or self.tree["loads"]
        return median(loads) if loads else 0.0

    def round_seconds(self, kind: Kind) -> float:
        """What a round of a kind takes: as trials of it took, else those of its method, else all."""
        took = self.tree["took"]
        of_method = [each for each in took.values() if each[2] == kind.method]
        like = [took[kind.label]] if kind.label in took else of_method or list(took.values())
        return float(sum(each[0] for each in like) / sum(each[1] for each in like)) if like else 0.0

    # ------------------------------------------------------------------------------------------ rungs

    @property
    def rungs(self) -> Sequence[Tree]:
        """The rungs so far, the last one perhaps under way."""
        rungs: list[Tree] = self.tree["rungs"]
        return rungs

    def begin(self, run: RungRun) -> None:
        """A rung begins."""
        self.tree["rungs"].append({**run.to_json(), "ended": False})
        self.write()

    def end(self, found: Mapping[str, Any]) -> None:
        """The last rung has come to its end, with this found."""
        self.tree["rungs"][-1] |= {**found, "ended": True}
        self.write()
