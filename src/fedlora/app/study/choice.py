# SPDX-License-Identifier: Apache-2.0
"""The choice of learning rates: of every unit the one that scores best on the validation parts of the tuning draws."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from fedlora.app.study.cells import Cell, Unit
from fedlora.app.study.plan import Rate, Study


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of one tuning cell."""

    cell: Cell
    goodness: tuple[float, ...] | None
    """Its metrics, the headline first, each turned so that more is better; None: its training diverged."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The rate of one unit, and what it was chosen from."""

    unit: Unit
    rate: Rate | None
    """None: the training diverged at every rate."""
    tried: Mapping[Rate, tuple[float | None, ...]]
    """By rate, the headline (more is better) on every tuning draw; None where the training diverged."""

    @property
    def at_an_edge(self) -> bool:
        """Whether the learning rate is the smallest or the largest of three or more that were tried."""
        rates = sorted({rate.lr for rate in self.tried})
        return self.rate is not None and len(rates) > 2 and self.rate.lr in (rates[0], rates[-1])


def choose(study: Study, trials: Sequence[Trial]) -> list[Choice]:
    """The choice of every unit whose tuning cells have all come to an end, in the order of the study.

    The best mean over the tuning draws counts, of equals by the other metrics in their order, then the smaller rate. A
    rate at which the training diverged on any draw is out.

    Args:
        study: the study.
        trials: what came of tuning cells; units that lack some are left out.
    """
    wanted = len(study.tuning.draws) if study.tuning is not None else 0
    found: dict[Unit, dict[Rate, list[tuple[float, ...] | None]]] = {}
    for trial in trials:
        unit = Unit(trial.cell.setting, trial.cell.variant)
        found.setdefault(unit, {}).setdefault(trial.cell.rate, []).append(trial.goodness)
    rates = {variant.name: variant.rates for variant in study.variants}
    return [
        Choice(unit, _best(tried), {rate: tuple(each[0] if each else None for each in tried[rate]) for rate in tried})
        for unit, tried in found.items()
        if set(tried) == set(rates[unit.variant]) and all(len(each) == wanted for each in tried.values())
    ]


def _best(tried: Mapping[Rate, Sequence[tuple[float, ...] | None]]) -> Rate | None:
    means: list[tuple[list[float], float, Rate]] = []
    for rate, each in tried.items():
        ended = [goodness for goodness in each if goodness is not None]
        if len(ended) == len(each):
            means.append(([fmean(values) for values in zip(*ended, strict=True)], -rate.lr, rate))
    return max(means, key=lambda entry: entry[:2])[2] if means else None
