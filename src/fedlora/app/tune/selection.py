# SPDX-License-Identifier: Apache-2.0
"""Who goes on: the order of a rung's candidates, and the field of the next one."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from fedlora.app.tune.asked import Asked
from fedlora.app.tune.candidates import Candidate, Kind, variations
from fedlora.app.tune.plan import FINALISTS, Rung

Goodness = Sequence[float]
"""The metrics of a trial, the headline first, each turned so that more is better."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What counts of a rung."""

    draws: tuple[int, ...]
    """On which all that count were run."""
    best: tuple[Candidate, ...]
    """Those that count, the best mean over these draws first."""


def judged(scores: Mapping[Candidate, Mapping[int, Goodness]], draws: Sequence[int], failed: Iterable[str]) -> Judged:
    """Rank a rung's candidates, paired over draws.

    Where the time was up in the middle of a rung, the draws count that everybody was run on. Where there is none, the
    first draw counts, for those that were run on it.

    Args:
        scores: of each candidate in the field, by draw; what was not run is left out.
        draws: of the rung, in order.
        failed: labels of candidates that failed on some draw; they are out.
    """
    out = set(failed)
    there = {candidate: by for candidate, by in scores.items() if candidate.label not in out}
    whole = tuple(draw for draw in draws if there and all(draw in by for by in there.values()))
    if not whole:
        whole = tuple(draws[:1])
        there = {candidate: by for candidate, by in there.items() if whole[0] in by}
    means = {
        candidate: [fmean(values) for values in zip(*(by[draw] for draw in whole), strict=True)]
        for candidate, by in there.items()
    }
    return Judged(whole, tuple(sorted(means, key=lambda who: (means[who], -who.rate.lr), reverse=True)))


def next_field(asked: Asked, rung: Rung, best: Sequence[Candidate], allowed: Sequence[Kind]) -> list[Candidate]:
    """The field of a rung behind the first.

    Args:
        asked: the question.
        rung: the one that begins.
        best: the candidates of the rung before, the best first.
        allowed: kinds that the budget has room for.
    """
    if rung.field == "variations":
        methods = list(dict.fromkeys(candidate.kind.method for candidate in best))[: rung.keep]
        field: list[Candidate] = []
        for method in methods:
            first, *others = [candidate for candidate in best if candidate.kind.method == method]
            field += [first, *others[:1], *variations(asked, first, allowed)]
        return list(dict.fromkeys(field))
    kinds = list(dict.fromkeys(candidate.kind for candidate in best))[: rung.keep]
    leaders = [next(candidate for candidate in best if candidate.kind == kind) for kind in kinds]
    if len(leaders) < FINALISTS:  # one method at one rank: its two best rates meet
        leaders += [candidate for candidate in best if candidate not in leaders][: FINALISTS - len(leaders)]
    return leaders
