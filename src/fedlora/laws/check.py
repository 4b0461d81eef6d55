# SPDX-License-Identifier: Apache-2.0
"""Run the law book over a method and keep the smallest counter-example of every broken law."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from hypothesis import HealthCheck, Phase, given, settings

from fedlora.laws.book import LAWS, Law
from fedlora.laws.world import World, worlds
from fedlora.methods.base import Method


@dataclass(frozen=True)
class Verdict:
    """What became of one law."""

    law: str
    statement: str
    held: bool | None
    """None: the method does not declare it."""
    example: str = ""
    """The smallest world that breaks the law, and what was seen there."""


def check_law(method: Method, law: Law, examples: int = 25) -> Verdict:
    """Try one law on `examples` worlds; where it breaks, look for the smallest that breaks it."""
    if not law.applies(method):
        return Verdict(law.name, law.statement, None)
    broken: list[tuple[World, Exception]] = []

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        print_blob=False,
    )
    @given(worlds(method.mixed_ranks, method.kinds))
    def trial(world: World) -> None:
        try:
            law.check(method, world)
        except Exception as error:
            broken.append((world, error))
            raise

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial()
    except Exception:
        if not broken:
            raise
        world, error = broken[-1]  # Hypothesis ends on the smallest that it found
        seen = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
        return Verdict(law.name, law.statement, False, f"{seen} [{world}]")
    return Verdict(law.name, law.statement, True)


def check_method(method: Method, examples: int = 25) -> Iterator[Verdict]:
    """Try every law, one after the other."""
    for law in LAWS:
        yield check_law(method, law, examples)
