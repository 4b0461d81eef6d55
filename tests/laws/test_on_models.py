"""Laws on real models: BERT's maps are Linear, GPT-2's are Conv1D, which stores its weights the other way round."""

from dataclasses import dataclass, field

import pytest
from tiny_models import LABELS, owned_by, some_dialogues, some_tokens, tiny_language_model, tiny_model, tokenizer

from fedlora.federation.pipeline import Pipeline
from fedlora.laws.book import LAWS
from fedlora.laws.world import World
from fedlora.methods import BUILT_IN, find_method
from fedlora.training.bases.model import Base, make_base, make_causal_base
from fedlora.training.forward.packed import fastest_forward
from fedlora.training.loop import ModelTrainer
from fedlora.training.settings import TrainSettings
from fedlora.training.tasks.causal_lm import CausalLM
from fedlora.training.tasks.classification import Classification

BY_NAME = {law.name: law for law in LAWS}
METHODS = [kind for kind in map(find_method, BUILT_IN) if "lora" in kind().facts.kinds]


@dataclass(frozen=True)
class OnModel(World):
    """Clients with 3 to 6 examples each train a real model."""

    base: Base = field(kw_only=True)

    @property
    def spec(self):
        return self.base.spec(max(self.ranks), self.scale, head=self.head)

    def trainer(self, same_data=False):
        owned = owned_by(sum(self.examples), len(self.examples))
        if same_data:
            owned = dict.fromkeys(owned, owned["c0"])
        classifies = self.base.task_type == "SEQ_CLS"
        tokens = (some_tokens if classifies else some_dialogues)(sum(self.examples))
        task = Classification(LABELS) if classifies else CausalLM(40)
        settings = TrainSettings(epochs=3, batch_size=8, lr=1e-3)  # twins draw the same batches
        forward = fastest_forward(self.base, self.spec)
        parts = {"train": tokens, "test": tokens, "owned": owned}
        return ModelTrainer(forward, task, settings, **parts, seed=self.seed, rounds=self.rounds)


def world(kind, method):
    base = make_base(tiny_model(kind), tokenizer(), kind, LABELS)
    assert (kind == "gpt2") == bool(base.transposed)
    return world_on(base, method)


def world_on(base, method):
    ranks = (2, 1, 3) if method.facts.mixed_ranks else (2, 2, 2)
    usual = {
        "shapes": tuple(base.shapes.values()), "ranks": ranks, "examples": (4, 4, 4), "rounds": 3,
        "absent": frozenset({(2, 0)}), "lost": frozenset({(1, 2)}), "scale": 2.0, "head": "shared",
        "wire": "float32", "seed": 3,
    }  # fmt: skip
    return OnModel(**usual, base=base)


@pytest.mark.parametrize("name", ["exactness", "latecomer", "idempotence", "absence", "resume"])
@pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.name)
def test_law_on_conv1d(kind, name):
    method, law = kind(), BY_NAME[name]
    if law.applies(Pipeline(method)):
        law.check(Pipeline(method), world("gpt2", method))


@pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.name)
def test_exactness_on_linear(kind):
    pipeline = Pipeline(kind())
    if BY_NAME["exactness"].applies(pipeline):
        BY_NAME["exactness"].check(pipeline, world("bert", pipeline.method))


@pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.name)
def test_exactness_on_a_language_model(kind):
    """It has no head, and its examples hold unlike numbers of supervised tokens."""
    method, law = kind(), BY_NAME["exactness"]
    base = make_causal_base(tiny_language_model("llama"), tokenizer(), "llama")
    if law.applies(Pipeline(method)):
        law.check(Pipeline(method), world_on(base, method))
