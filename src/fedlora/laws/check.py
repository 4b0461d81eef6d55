# SPDX-License-Identifier: Apache-2.0
"""Run the law book over a method with its stages, and keep the smallest counter-example of every broken law."""

import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields

from hypothesis import HealthCheck, Phase, given, settings, strategies

from fedlora.errors import MethodError
from fedlora.federation.pipeline import Pipeline
from fedlora.federation.stages.base import Stage
from fedlora.laws.book import LAWS, Law
from fedlora.laws.fields import silent_fields, takes, variations
from fedlora.laws.smoke import smoke
from fedlora.laws.world import World, worlds
from fedlora.methods.base import Method
from fedlora.methods.fedit import FedIT
from fedlora.methods.fedsa import FedSA
from fedlora.methods.files import crash, source_file
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


def check_law(pipeline: Pipeline, law: Law, examples: int = 25, others: Sequence[Pipeline] = ()) -> Verdict:
    """Try one law on `examples` worlds; where it breaks, look for the smallest that breaks it.

    Args:
        pipeline: what is on trial.
        law: one of the book.
        examples: how many worlds.
        others: the same with other values in its fields; a world is tried with one of them, if that applies.
    """
    if not law.applies(pipeline):
        return Verdict(law.name, law.statement, None)
    broken: list[tuple[Pipeline, World, Exception]] = []
    fitting = [other for other in others if law.applies(other)]
    tried = strategies.just(pipeline)
    if fitting:
        tried |= strategies.sampled_from(fitting)

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
    @given(tried.flatmap(lambda one: strategies.tuples(strategies.just(one), worlds(one.facts))))
    def trial(drawn: tuple[Pipeline, World]) -> None:
        one, world = drawn
        one = one if takes(one, world) else pipeline
        try:
            law.check(one, world)
        except Exception as error:
            broken.append((one, world, error))
            raise

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial()
    except Exception:
        if not broken:
            raise
        one, world, error = broken[-1]  # Hypothesis ends on the smallest that it found
        subject = one.stages[0] if one.stages else one.method
        seen = str(error) if isinstance(error, AssertionError) else crash(error, source_file(type(subject)))
        return Verdict(law.name, law.statement, False, f"{seen} [{_changed(one, pipeline)}{world}]")
    return Verdict(law.name, law.statement, True)


def _changed(pipeline: Pipeline, given: Pipeline) -> str:
    """The fields whose values are not the given ones, in words."""
    here: list[Method | Stage] = [pipeline.method, *pipeline.stages]
    parts = zip(here, [given.method, *given.stages], strict=True)
    told = [
        f"{one.name}.{field.name} = {getattr(one, field.name)!r}"
        for one, other in parts
        for field in fields(one)
        if getattr(one, field.name) != getattr(other, field.name)
    ]
    return "".join(f"{text}, " for text in told)


def check_method(method: Method, examples: int = 25, fixed: Collection[str] = ()) -> Iterator[Verdict]:
    """Try every law on a method, one after the other; its fields that declare a range are drawn within it.

    Args:
        method: with the values of its fields from which the smallest counter-example differs least.
        examples: worlds for each law.
        fixed: fields that keep their value.

    Raises:
        MethodError: it crashes in a small federation, with the line of its file.
    """
    smoke(method)
    pipeline = Pipeline(method)
    others = variations(pipeline, method, fixed)
    for law in LAWS:
        yield check_law(pipeline, law, examples, others)


def check_stage(stage: Stage, examples: int = 25, fixed: Collection[str] = ()) -> Iterator[Verdict]:
    """Try every law on a stage, one after the other: behind each method of `PANEL` that it does not refuse.

    Args:
        stage: as the method of `check_method`.
        examples: worlds for each law and method.
        fixed: fields that keep their value.

    Raises:
        MethodError: it refuses all of them, or crashes in a small federation, with the line of its file.
    """
    pipelines = _behind_each(stage)
    for pipeline in pipelines:
        smoke(pipeline.method, pipeline.stages)
    others = [variations(pipeline, stage, fixed) for pipeline in pipelines]
    tried = list(zip(pipelines, others, strict=True))
    for law in LAWS:
        verdicts = [check_law(pipeline, law, examples, varied) for pipeline, varied in tried]
        broken = next((verdict for verdict in verdicts if verdict.held is False), None)
        held = next((verdict for verdict in verdicts if verdict.held), verdicts[0])
        yield broken or held


def unused_fields(subject: Method | Stage, count: int = 25, fixed: Collection[str] = ()) -> list[str]:
    """The fields of a method or stage that change nothing in so many worlds: see `silent_fields`."""
    pipelines = [Pipeline(subject)] if isinstance(subject, Method) else _behind_each(subject)
    return silent_fields(pipelines, subject, fixed, count)


def _behind_each(stage: Stage) -> list[Pipeline]:
    found, refusals = [], []
    for method in PANEL:
        try:
            found.append(Pipeline(method, (stage,)))
        except MethodError as error:
            refusals.append(error)
        except Exception as error:
            raise MethodError(crash(error, source_file(type(stage)))) from error
    if not found:
        raise refusals[0]
    return found
