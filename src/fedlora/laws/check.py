# SPDX-License-Identifier: Apache-2.0
"""Run the law book over a method with its stages, and keep the smallest counter-example of every broken law."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from hypothesis import HealthCheck, Phase, given, settings

from fedlora.errors import MethodError
from fedlora.federation.pipeline import Pipeline
from fedlora.federation.stages.base import Stage
from fedlora.laws.book import LAWS, Law
from fedlora.laws.world import World, worlds
from fedlora.methods.base import Method
from fedlora.methods.fedit import FedIT
from fedlora.methods.fedsa import FedSA
from fedlora.methods.lora_a2 import LoRAA2
from fedlora.methods.zeropad import ZeroPad

PANEL: tuple[Method, ...] = (FedIT(), LoRAA2(pool_rank=3), FedSA(), ZeroPad())
"""Methods that a stage is tried behind: values, chosen slots of changes, a private side, unequal ranks."""


@dataclass(frozen=True)
class Verdict:
    """What became of one law."""

    law: str
    statement: str
    held: bool | None
    """None: the method does not declare it."""
    example: str = ""
    """The smallest world that breaks the law, and what was seen there."""


def check_law(pipeline: Pipeline, law: Law, examples: int = 25) -> Verdict:
    """Try one law on `examples` worlds; where it breaks, look for the smallest that breaks it."""
    if not law.applies(pipeline):
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
    @given(worlds(pipeline.facts.mixed_ranks, pipeline.facts.kinds))
    def trial(world: World) -> None:
        try:
            law.check(pipeline, world)
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
    """Try every law on a method, one after the other."""
    pipeline = Pipeline(method)
    for law in LAWS:
        yield check_law(pipeline, law, examples)


def check_stage(stage: Stage, examples: int = 25) -> Iterator[Verdict]:
    """Try every law on a stage, one after the other: behind each method of `PANEL` that it does not refuse.

    Raises:
        MethodError: it refuses all of them.
    """
    pipelines = list(_behind_each(stage))
    for law in LAWS:
        verdicts = [check_law(pipeline, law, examples) for pipeline in pipelines]
        broken = next((verdict for verdict in verdicts if verdict.held is False), None)
        held = next((verdict for verdict in verdicts if verdict.held), verdicts[0])
        yield broken or held


def _behind_each(stage: Stage) -> Iterator[Pipeline]:
    refusals: list[MethodError] = []
    for method in PANEL:
        try:
            yield Pipeline(method, (stage,))
        except MethodError as error:
            refusals.append(error)
    if len(refusals) == len(PANEL):
        raise refusals[0]
