"""Every method obeys every law that applies to it."""

import pytest

from fedlora.laws.book import LAWS
from fedlora.laws.check import check_law
from fedlora.methods import BUILT_IN
from fedlora.methods.ffa import FFA
from fedlora.methods.lora_a2 import LoRAA2

SETTINGS = [cls() for cls in BUILT_IN.values()] + [
    LoRAA2(pool_rank=3),
    LoRAA2(denominator="owners"),
    FFA(denominator="owners"),
]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
@pytest.mark.parametrize("method", SETTINGS, ids=repr)
def test_law(method, law):
    verdict = check_law(method, law, examples=12)
    assert verdict.held is not False, verdict.example


def test_every_law_applies_to_some_method():
    for law in LAWS:
        assert any(law.applies(method) for method in SETTINGS), law.name
