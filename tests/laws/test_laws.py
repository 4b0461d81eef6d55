"""Every method obeys every law that applies to it."""

import pytest

from fedlora.laws.book import LAWS
from fedlora.laws.check import check_law
from fedlora.methods import BUILT_IN
from fedlora.methods.fedit import FedIT
from fedlora.methods.fedsa import FedSA
from fedlora.methods.ffa import FFA
from fedlora.methods.full import Full
from fedlora.methods.hetlora import HetLoRA
from fedlora.methods.lora_a2 import LoRAA2
from fedlora.methods.replicate import Replicate
from fedlora.methods.wrap import Clip, FedAdam, FedAvgM, FedProx
from fedlora.methods.zeropad import ZeroPad

SETTINGS = [cls() for cls in BUILT_IN.values()] + [
    LoRAA2(pool_rank=3),
    LoRAA2(denominator="owners"),
    LoRAA2(pool_rank=3, criterion="sensitivity"),
    LoRAA2(pool_rank=3, criterion="contribution-per-byte"),
    LoRAA2(pool_rank=3, criterion="magnitude", bytes_per_round=90),
    LoRAA2(pool_rank=3, denominator="owners", centre="median"),
    FFA(denominator="owners"),
    FedSA(shared="output"),
    Replicate(promote=0.5, start_rank=1),
    Replicate(centre="median"),
    FedIT(centre="trimmed", trim=0.4),
    FedProx(FedSA(), mu=0.5),
    FedProx(LoRAA2(pool_rank=3)),
    Clip(FedIT(), norm=0.05),
    Clip(LoRAA2(pool_rank=3), norm=0.01),
    Clip(HetLoRA(), norm=0.05),
    FedAvgM(ZeroPad()),
    FedAvgM(Full()),
    FedAdam(LoRAA2(pool_rank=3)),
    FedAdam(FedSA()),
    FedAvgM(FedProx(Clip(FFA()))),
]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
@pytest.mark.parametrize("method", SETTINGS, ids=repr)
def test_law(method, law):
    verdict = check_law(method, law, examples=12)
    assert verdict.held is not False, verdict.example


def test_every_law_applies_to_some_method():
    for law in LAWS:
        assert any(law.applies(method) for method in SETTINGS), law.name
