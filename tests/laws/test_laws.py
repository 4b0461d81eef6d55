"""Every method obeys every law that applies to it."""

import pytest

from fedlora.federation.pipeline import Pipeline
from fedlora.federation.stages.clip import Clip
from fedlora.federation.stages.proximal import FedProx
from fedlora.federation.stages.server_optimizer import FedAdam, FedAvgM
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
from fedlora.methods.zeropad import ZeroPad

METHODS = [cls() for cls in BUILT_IN.values()] + [
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
]
BEHIND_STAGES = [
    Pipeline(FedSA(), (FedProx(mu=0.5),)),
    Pipeline(LoRAA2(pool_rank=3), (FedProx(),)),
    Pipeline(FedIT(), (Clip(norm=0.05),)),
    Pipeline(LoRAA2(pool_rank=3), (Clip(norm=0.01),)),
    Pipeline(HetLoRA(), (Clip(norm=0.05),)),
    Pipeline(FedIT(centre="median"), (Clip(norm=0.05),)),
    Pipeline(ZeroPad(), (FedAvgM(),)),
    Pipeline(Full(), (FedAvgM(),)),
    Pipeline(LoRAA2(pool_rank=3), (FedAdam(),)),
    Pipeline(FedSA(), (FedAdam(),)),
    Pipeline(FFA(), (Clip(), FedProx(), FedAvgM())),
]
SETTINGS = [*map(Pipeline, METHODS), *BEHIND_STAGES]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
@pytest.mark.parametrize("pipeline", SETTINGS, ids=lambda own: repr((own.method, *own.stages)))
def test_law(pipeline, law):
    verdict = check_law(pipeline, law, examples=12)
    assert verdict.held is not False, verdict.example


def test_every_law_applies_to_some_method():
    for law in LAWS:
        assert any(law.applies(pipeline) for pipeline in SETTINGS), law.name
