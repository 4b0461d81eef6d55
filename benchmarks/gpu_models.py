# SPDX-License-Identifier: Apache-2.0
"""What `gpu.py` trains: bases with random weights, made where they are used, and examples that are numbers already."""

from dataclasses import dataclass

import numpy
import torch

from fedlora.core.adapter import BOTH, Start, fresh_adapter
from fedlora.core.rounds import Fit, FitJob
from fedlora.training.bases.model import make_base
from fedlora.training.data.split import Owned
from fedlora.training.encoding.tokens import Tokens
from fedlora.training.loop import ModelTrainer
from fedlora.training.settings import TrainSettings
from fedlora.training.tasks.classification import Classification

LABELS = tuple(f"label {number}" for number in range(77))
BATCH = 16
RANK = 8
SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 500,
}  # fmt: skip
LLAMA = {
    "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
    "intermediate_size": 8192, "vocab_size": 128_256,
}  # fmt: skip


class NoTokenizer:
    """The texts are token ids already."""

    pad_token_id = 1

    def get_vocab(self):
        return {}


@dataclass(frozen=True)
class Shape:
    """A model's shape, without weights."""

    name: str
    kind: str
    sizes: dict

    def base(self, device, dtype):
        """With random weights, drawn on the device."""
        import transformers

        config = getattr(transformers, f"{self.kind}Config")(num_labels=len(LABELS), pad_token_id=1, **self.sizes)
        usual = torch.get_default_dtype()
        torch.manual_seed(0)
        torch.set_default_dtype(dtype)
        try:
            with torch.device(device):
                model = getattr(transformers, f"{self.kind}ForSequenceClassification")(config)
        finally:
            torch.set_default_dtype(usual)
        return make_base(model.to(device=device, dtype=dtype).eval(), NoTokenizer(), self.name, LABELS)


def roberta(small):
    sizes = {"max_position_embeddings": 514, "vocab_size": 50_265}
    return Shape("RoBERTa-base", "Roberta", sizes | (SMALL if small else {}))


def llama(small):
    return Shape("LLaMA 1B", "Llama", {**SMALL, "num_key_value_heads": 1} if small else LLAMA)


def some_tokens(clients, steps):
    """Examples of 12 to 28 tokens for `steps` batches of each client, and who has which."""
    draw, each = numpy.random.default_rng(0), BATCH * steps
    lengths = draw.integers(12, 29, clients * each)
    starts = numpy.concatenate([[0], numpy.cumsum(lengths)])
    ids = draw.integers(5, 480, int(starts[-1])).astype(numpy.int32)
    parts = numpy.arange(clients * each).reshape(clients, each)
    owned = {f"c{number:02d}": Owned(part, part[:0], part[:0]) for number, part in enumerate(parts)}
    return Tokens(ids, starts, draw.integers(0, len(LABELS), clients * each)), owned


def new_trainer(forward, tokens, owned, steps):
    settings = TrainSettings(steps=steps, batch_size=BATCH, lr=5e-4)
    task = Classification(forward.base.labels)
    return ModelTrainer(forward, task, settings, train=tokens, test=tokens, owned=owned, seed=0, rounds=10)


def jobs_of(trainer, clients):
    head = {name: part.float() for name, part in trainer.head.items()}
    start = Start(fresh_adapter(trainer.spec, RANK, 0).with_dense(head))
    return [FitJob(client, 1, Fit(start, BOTH)) for client in clients]


def moved_jobs(trainer, clients):
    """Each client from factors of its own and a head of some size, so that a loss shows what they do to a token."""
    jobs = []
    for number, job in enumerate(jobs_of(trainer, clients)):
        draw, adapter = torch.Generator().manual_seed(number), job.fit.start.adapter
        moved = {name: torch.randn(tensor.shape, generator=draw) / 10 for name, tensor in adapter.output.items()}
        dense = {name: torch.randn(tensor.shape, generator=draw) / 4 for name, tensor in adapter.dense.items()}
        start = Start(adapter.with_side("output", moved).with_dense(dense))
        jobs.append(FitJob(job.client, 1, Fit(start, BOTH)))
    return jobs
