# SPDX-License-Identifier: Apache-2.0
"""Rows of a comparison that are equal, and why: whoever meets two identical rows takes them for a mistake."""

import itertools
import json
from collections.abc import Sequence

from fedlora.report.read import Group

_KEYS = ("round", "loss", "global", "personal")
"""What two runs of equal training have in common in every round, to the last bit."""


def equal_sentences(groups: Sequence[Group]) -> dict[str, tuple[str, ...]]:
    """Label of a row -> a sentence on the rows whose training and scores are the same in every round of every seed.

    Args:
        groups: of a comparison.
    """
    sorted_groups = sorted(groups, key=_course)
    found: dict[str, tuple[str, ...]] = {}
    for course, same in itertools.groupby(sorted_groups, key=_course):
        alike = sorted(same, key=groups.index)
        if len(alike) > 1 and course:
            found |= dict.fromkeys((group.label for group in alike), (_sentence(alike),))
    return found


def _course(group: Group) -> str:
    """Losses and scores of every round of every seed; empty where a run has none."""
    runs = sorted(group.runs, key=lambda run: run.seed)
    if not all(run.last_scored() for run in runs):
        return ""
    return json.dumps([[run.seed, *([line.get(key) for key in _KEYS] for line in run.rounds)] for run in runs])


def _sentence(alike: Sequence[Group]) -> str:
    names = [group.label for group in alike]
    told = f"{', '.join(names[:-1])} and {names[-1]} have equal losses and scores in every round"
    ranks = {group.ranks for group in alike}
    methods = {group.runs[0].method for group in alike}
    if len(methods) > 1 and len(ranks) == 1 and len(rank := ranks.pop()) == 1:
        return (
            f"{told}: every client has rank {rank[0]}, and these methods differ only where ranks differ "
            "(clients.ranks)."
        )
    return f"{told}: what differs between them changes nothing in this setting."
