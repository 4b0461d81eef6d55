"""What `fedlora check` does besides the laws: one small federation first, fields within their ranges, silent fields."""

from dataclasses import dataclass, fields, replace
from typing import Annotated, ClassVar

import pytest
import torch

from fedlora.core.settings import Range, numbers
from fedlora.errors import MethodError
from fedlora.federation.pipeline import Pipeline
from fedlora.federation.stages import STAGES
from fedlora.federation.stages.base import Stage
from fedlora.laws.book import LAWS
from fedlora.laws.check import check_law, check_stage, unused_fields
from fedlora.laws.fields import variations, varied
from fedlora.laws.smoke import smoke
from fedlora.methods import BUILT_IN
from fedlora.methods.base import Method, move_to
from fedlora.methods.fedit import FedIT

SUBJECTS = [*BUILT_IN.values(), *STAGES.values()]


@pytest.mark.parametrize("kind", BUILT_IN.values(), ids=lambda kind: kind.name)
def test_every_method_runs_once(kind):
    smoke(kind())


@pytest.mark.parametrize("kind", SUBJECTS, ids=lambda kind: kind.name)
def test_every_field_changes_something(kind):
    assert unused_fields(kind()) == []


@pytest.mark.parametrize("kind", SUBJECTS, ids=lambda kind: kind.name)
def test_every_number_declares_its_range(kind):
    assert all(number.bounds for number in numbers(kind).values())


@pytest.mark.parametrize("kind", BUILT_IN.values(), ids=lambda kind: kind.name)
def test_a_given_value_is_kept(kind):
    for field in fields(kind):
        others = variations(Pipeline(kind()), kind(), {field.name})
        assert {getattr(other.method, field.name) for other in others} <= {field.default}
        assert field.name not in varied(kind(), {field.name})


@dataclass(frozen=True)
class ForgetsSlots(FedIT):
    """Wrong, but not with its default: what nobody sent falls to zero."""

    name: ClassVar[str] = "forgets-slots"
    fade: Annotated[float, Range(at_least=0.0, at_most=1.0)] = 0.0

    def advance(self, state, total, round):
        after = super().advance(state, total, round)
        return move_to(after, {"output": {m: B * (1 - self.fade) for m, B in after.adapter.output.items()}})

    @property
    def facts(self):
        return replace(super().facts, idempotence_tolerance=1e-5)


def test_a_fault_beside_the_default_is_found_and_the_field_named():
    law = next(law for law in LAWS if law.name == "idempotence")
    pipeline = Pipeline(ForgetsSlots())
    assert check_law(pipeline, law).held
    verdict = check_law(pipeline, law, 60, variations(pipeline, pipeline.method, ()))
    assert verdict.held is False
    assert "forgets-slots.fade = " in verdict.example


@dataclass(frozen=True)
class Broken(Stage):
    """Gives back nothing at the server."""

    name: ClassVar[str] = "broken"

    def incoming(self, update, start):
        return None


def test_a_stage_that_gives_back_nothing_is_told_as_that():
    with pytest.raises(
        MethodError, match=r"test_before_the_laws.py:\d+: Broken.incoming returned None, expected Update"
    ):
        list(check_stage(Broken()))


@dataclass(frozen=True)
class Yields(Method):
    """Asks for something that is no fit."""

    name: ClassVar[str] = "yields"

    def client(self, payload, kept, client, spec, round):
        yield torch.zeros(1)

    def advance(self, state, total, round):
        return state


def test_what_a_programme_yields_is_looked_at():
    with pytest.raises(MethodError, match=r"Yields.client yielded a Tensor, expected Fit"):
        smoke(Yields())
