"""Two clients, one round and a score with every floor up to the federation: a base, its adapter, a method, a trainer."""

import importlib
import pkgutil

import numpy
import torch
from transformers import BertConfig, BertForSequenceClassification

from fedlora.core.rounds import Client, ScoreJob
from fedlora.federation.local import LocalTransport
from fedlora.federation.pipeline import Pipeline
from fedlora.federation.server import Federation, Plan, begin, federate, global_model
from fedlora.methods.lora_a2 import LoRAA2
from fedlora.training.bases.model import make_base
from fedlora.training.data.examples import Texts
from fedlora.training.data.split import split
from fedlora.training.encoding.tokens import Tokens
from fedlora.training.forward.packed import fastest_forward
from fedlora.training.loop import ModelTrainer
from fedlora.training.settings import SplitSettings, TrainSettings
from fedlora.training.tasks.classification import Classification


class NoTokenizer:
    """The texts are token ids already."""

    pad_token_id = 1

    def get_vocab(self):
        return {}


for floor in ("core", "methods", "training", "federation"):
    place = importlib.import_module(f"fedlora.{floor}")
    for module in pkgutil.walk_packages(place.__path__, f"fedlora.{floor}."):
        importlib.import_module(module.name)

torch.manual_seed(0)
shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
config = BertConfig(vocab_size=50, max_position_embeddings=16, num_labels=3, **shape)
base = make_base(BertForSequenceClassification(config), NoTokenizer(), "tiny", ("a", "b", "c"))
labels = numpy.arange(24) % 3
tokens = Tokens(numpy.repeat(labels + 5, 4).astype(numpy.int32), numpy.arange(25) * 4, labels)
texts = Texts(tuple(map(str, range(24))), labels)
owned = split(texts, texts, SplitSettings("dirichlet", 2, 5.0), seed=0).clients
spec = base.spec(2, 1.0, head="shared")
settings = TrainSettings(epochs=3, batch_size=4, lr=2e-2)
task, parts = Classification(base.labels), {"train": tokens, "test": tokens, "owned": owned}
trainer = ModelTrainer(fastest_forward(base, spec), task, settings, **parts, seed=0, rounds=1)
clients = [Client(name, len(own.train), 2) for name, own in owned.items()]
method = LoRAA2()
federation = Federation(Pipeline(method), spec, LocalTransport(clients, Pipeline(method), trainer), Plan(1), trainer)
((server, _),) = federate(federation, begin(federation, trainer.head))
trained = server.state.adapter.output
assert any(float(tensor.abs().max()) > 0 for tensor in trained.values())
(score,) = trainer.score([ScoreJob(None, global_model(federation, server), "test")])
print("a round, scored on", score.examples, "examples")
