# SPDX-License-Identifier: Apache-2.0
"""The cohort trainer on a GPU against a loop over clients with stock PEFT, in one run, within 8 minutes.

    python benchmarks/gpu.py OUT.json [DEVICE] [small]

RoBERTa-base's shape with random weights in bfloat16, 30 clients, batch 16 of 12 to 28 tokens, six maps a layer,
rank 8, AdamW. Told: whether the cohort's float32 losses on the device are those of the plain trainer; examples a
second of the loop and of the cohort at 1 to 30 clients a pass; the rate of a large bfloat16 matrix product timed
beside them, and the share of it that the arithmetic of the work (4 FLOP a weight and token) comes to; peak memory.

It needs torch, transformers and peft, and of fedlora nothing above `training`.
`small` shrinks the shape, so that the script itself can be tried on a CPU: those figures say nothing.
"""

import json
import platform
import sys
import time
import warnings
from pathlib import Path

import numpy
import torch
from torch.nn import functional

from fedlora.core.adapter import BOTH, Start, fresh_adapter
from fedlora.core.rounds import Fit, FitJob
from fedlora.core.seeds import numpy_stream
from fedlora.training.batches import padded
from fedlora.training.forward.packed import fastest_forward
from fedlora.training.forward.padded import PaddedForward
from fedlora.training.loop import ModelTrainer
from fedlora.training.model import make_base
from fedlora.training.settings import TrainSettings
from fedlora.training.split import Owned
from fedlora.training.tasks.classification import Classification
from fedlora.training.tokens import Tokens

LABELS = tuple(f"label {number}" for number in range(77))
LIMIT = 420.0
"""Seconds after which no further measurement begins."""


class NoTokenizer:
    """The texts are token ids already."""

    pad_token_id = 1

    def get_vocab(self):
        return {}


def new_base(device, dtype, small):
    from transformers import RobertaConfig, RobertaForSequenceClassification

    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    config = RobertaConfig(vocab_size=50265, max_position_embeddings=514, num_labels=77, **(shape if small else {}))
    torch.manual_seed(0)
    model = RobertaForSequenceClassification(config).to(dtype).to(device)
    return make_base(model, NoTokenizer(), "roberta-base shape, random", LABELS)


def some_tokens(clients, each):
    draw = numpy.random.default_rng(0)
    lengths = draw.integers(12, 29, clients * each)
    starts = numpy.concatenate([[0], numpy.cumsum(lengths)])
    ids = draw.integers(5, 50_000, int(starts[-1])).astype(numpy.int32)
    parts = numpy.arange(clients * each).reshape(clients, each)
    owned = {f"c{number:02d}": Owned(own, own[:0], own[:0]) for number, own in enumerate(parts)}
    return Tokens(ids, starts, draw.integers(0, 77, clients * each)), owned


def new_trainer(forward, base, tokens, owned, device, steps, **others):
    settings = TrainSettings(steps=steps, batch_size=16, lr=5e-4)
    spec = base.spec(8, 2.0, head="shared")
    return ModelTrainer(
        forward(base, spec, device, **others), Classification(base.labels), settings,
        train=tokens, test=tokens, owned=owned, seed=0, rounds=10,
    )  # fmt: skip


def jobs_of(trainer, owned):
    head = {name: own.float() for name, own in trainer.head.items()}
    start = Start(fresh_adapter(trainer.spec, 8, 0).with_dense(head))
    return [FitJob(client, 1, Fit(start, BOTH)) for client in owned]


def wait(device):
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def timed(device, run):
    wait(device)
    started = time.perf_counter()
    value = run()
    wait(device)
    return time.perf_counter() - started, value


def agreement(device, small):
    """The largest difference of a client's loss, cohort on the device against plain on the CPU, float32."""
    tokens, owned = some_tokens(4, 48)
    losses = []
    for forward, where, others in ((PaddedForward, "cpu", {}), (fastest_forward, device, {"tokens_a_pass": 10**9})):
        trainer = new_trainer(forward, new_base(where, torch.float32, small), tokens, owned, where, 5, **others)
        losses.append([fitted.loss for fitted in trainer.fit(jobs_of(trainer, owned))])
    return max(abs(one - other) for one, other in zip(*losses, strict=True))


def peft_loop(base, tokens, owned, device, steps):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, target_modules=list(base.shapes),
                        modules_to_save=["classifier"])  # fmt: skip
    model = get_peft_model(base.model, config).eval()
    trained = [own for own in model.parameters() if own.requires_grad]

    def run():
        for client, own in owned.items():
            optimizer = torch.optim.AdamW(trained, lr=5e-4, weight_decay=0.0)
            order = numpy_stream(0, "batches", 1, client, 0).permutation(own.train)
            for step in range(steps):
                batch = order[16 * step : 16 * step + 16]
                ids, mask = padded(tokens, batch, 1, device)
                labels = torch.from_numpy(tokens.labels[batch]).to(device)
                loss = functional.cross_entropy(model(input_ids=ids, attention_mask=mask).logits.float(), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    return run


def matrix_rate(device, dtype, small):
    size = 256 if small else 8192
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    for _ in range(3):
        a @ b
    seconds, _ = timed(device, lambda: [a @ b for _ in range(20)])
    return 20 * 2 * size**3 / seconds


def main(out, device="cuda", *words):
    warnings.filterwarnings("ignore", category=FutureWarning)
    began, small = time.perf_counter(), "small" in words
    dtype, clients, steps = torch.bfloat16, 30, 4
    tokens, owned = some_tokens(clients, 16 * steps)
    gpu = torch.cuda.get_device_name() if torch.device(device).type == "cuda" else "no GPU: these figures say nothing"
    told = {"device": gpu, "torch": torch.__version__, "machine": platform.machine(), "small": small, "cohort": {}}
    told["loss_difference_float32"] = agreement(device, small)
    told["matrix_tflops"] = matrix_rate(device, dtype, small) / 1e12
    base = new_base(device, dtype, small)
    weights = sum(own.numel() for own in base.model.base_model.encoder.parameters() if own.ndim == 2)
    flop = 4 * weights * len(tokens.ids)
    for together in (30, 8, 4, 1):
        if time.perf_counter() - began > LIMIT:
            break
        share = 10**9 if together == clients else together * 16 * 20
        trainer = new_trainer(fastest_forward, base, tokens, owned, device, steps, tokens_a_pass=share)
        jobs = jobs_of(trainer, owned)
        trainer.fit(jobs[:together])
        if torch.device(device).type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds, _ = timed(device, lambda trainer=trainer, jobs=jobs: trainer.fit(jobs))
        peak = torch.cuda.max_memory_allocated() / 1e9 if torch.device(device).type == "cuda" else None
        told["cohort"][together] = {
            "seconds": seconds,
            "examples_per_second": len(tokens) / seconds,
            "share_of_matrix_rate": flop / seconds / 1e12 / told["matrix_tflops"],
            "peak_gb": peak,
        }
        print(together, told["cohort"][together], flush=True)
        Path(out).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    loop = peft_loop(new_base(device, dtype, small), tokens, owned, device, steps)
    timed(device, loop)
    seconds, _ = timed(device, loop)
    told["peft"] = {"seconds": seconds, "examples_per_second": len(tokens) / seconds}
    best = max(own["examples_per_second"] for own in told["cohort"].values())
    told["times_peft"] = best / told["peft"]["examples_per_second"]
    told["seconds_in_all"] = time.perf_counter() - began
    Path(out).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
