# SPDX-License-Identifier: Apache-2.0
"""One round of local training, four ways, side by side in one run on one machine.

    python benchmarks/trainers.py DATA BASE OUT.json [qv | six]

2,000 examples of BANKING77, 20 clients Dir(0.5), batch 16, one epoch, AdamW; query and value at rank 8, or
all six maps a layer at rank 2. Every way starts from the same adapter and the same head and draws the same batches:

* peft: a loop over clients with stock PEFT on one resident model, batches padded to their longest text
* plain: our plain trainer, the oracle
* cohort: the cohort trainer in one process with all threads in its operators
* workers: the cohort trainer with one single-threaded worker a core, as `fedlora run` uses it

Repeated in turn, the medians told: examples and tokens a second, the mean loss. Beside them the rate of the
matrix products at the shapes of the work, measured in the same run on all cores, and the arithmetic that the
work needs (4 FLOP a weight and token with a frozen base: forward, and back to the activations), so that the
share of the machine's rate is one number.
"""

import json
import os
import platform
import statistics
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch.nn import functional

from fedlora.app.build import build, cores
from fedlora.app.config import read_config
from fedlora.app.progress import quiet_libraries
from fedlora.core.adapter import BOTH, Start, fresh_adapter
from fedlora.core.rounds import Amount, Fit, FitJob
from fedlora.core.seeds import numpy_stream
from fedlora.training.batches import batches, padded
from fedlora.training.cohort import CohortTrainer
from fedlora.training.trainer import PlainTrainer, TrainSettings

REPEAT = 2
WORK = {"qv": (8, ["attention.self.query", "attention.self.value"]), "six": (2, None)}


def problem(data, base, shape):
    rank, targets = WORK[shape]
    words = ["data.source=files", f"data.path={data}", f"model.base={base}", f"adapter.rank={rank}"]
    words += ["data.train_examples=2000", "split.clients=20", "split.alpha=0.5", "method.name=fedit"]
    if targets:
        words.append(f"adapter.targets={json.dumps(targets)}")
    return build(read_config(None, words))


def peft_loop(simulation, tokens, start):
    """What its documentation shows: one model, one adapter, loaded anew for every client."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from transformers import AutoModelForSequenceClassification

    spec, base, dataset = simulation.spec, simulation.base, simulation.dataset
    model = AutoModelForSequenceClassification.from_pretrained(sys.argv[2], num_labels=len(dataset.labels)).eval()
    config = LoraConfig(
        task_type="SEQ_CLS",
        r=spec.rank,
        lora_alpha=spec.scale * spec.rank,
        target_modules=list(spec.shapes),
        modules_to_save=["classifier"],
    )
    model = get_peft_model(model, config).eval()
    state = {}
    for name in spec.shapes:
        state[f"base_model.model.{name}.lora_A.weight"] = start.adapter.input[name]
        state[f"base_model.model.{name}.lora_B.weight"] = start.adapter.output[name]
    for name, part in start.adapter.dense.items():
        state[f"base_model.model.{name}"] = part
    trained = [p for p in model.parameters() if p.requires_grad]
    assert any("modules_to_save" in n for n, p in model.named_parameters() if p.requires_grad), "the head must train"

    def run():
        losses = []
        for client, own in simulation.split.clients.items():
            set_peft_model_state_dict(model, state)
            optimizer = torch.optim.AdamW(trained, lr=5e-4, weight_decay=0.0)
            total = 0.0
            order = numpy_stream(0, "batches", 1, client, 0).permutation(own.train)
            for first in range(0, len(order), 16):
                ids, mask, labels = padded(tokens, order[first : first + 16], base.tokenizer.pad_token_id)
                loss = functional.cross_entropy(model(input_ids=ids, attention_mask=mask).logits, labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += float(loss.detach()) * len(labels)
            losses.append(total / len(order))
        return statistics.fmean(losses)

    return run


def ours(trainer, jobs):
    return lambda: statistics.fmean(fitted.loss for fitted in trainer.fit(jobs))


def with_workers(trainer, jobs):
    def run():
        with ThreadPoolExecutor(cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return statistics.fmean(fitted[0].loss for fitted in pool.map(trainer.fit, [[job] for job in jobs]))

    return run


def matrix_rate(simulation, tokens_a_batch):
    """GFLOP/s of the frozen maps' products with a batch's tokens, one thread on each core at once."""
    weights = [own for name, own in simulation.base.model.named_parameters() if own.ndim == 2 and "encoder" in name]
    inputs = {own.shape[1]: torch.randn(tokens_a_batch, own.shape[1]) for own in weights}
    flop = sum(2 * tokens_a_batch * own.numel() for own in weights)

    def products(_):
        for own in weights:
            inputs[own.shape[1]] @ own.detach().T

    with ThreadPoolExecutor(cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(products, range(4)))
        started = time.perf_counter()
        list(pool.map(products, range(40)))
        return 40 * flop / (time.perf_counter() - started) / 1e9


def main(data, base, out, shape="qv"):
    quiet_libraries()
    warnings.simplefilter("ignore")
    simulation = problem(data, base, shape)
    tokens, owned = simulation.trainer._train, simulation.split.clients
    settings = TrainSettings(Amount(epochs=1), batch_size=16, lr=5e-4)
    named = {"train": tokens, "test": tokens, "owned": owned, "seed": 0, "rounds": 10}
    start = Start(fresh_adapter(simulation.spec, simulation.spec.rank, 0).with_dense(simulation.trainer.head))
    jobs = [FitJob(client, 1, Fit(start, BOTH)) for client in owned]
    plain = PlainTrainer(simulation.base, simulation.spec, settings, **named)
    cohort = CohortTrainer(simulation.base, simulation.spec, settings, **named)
    ways = {
        "peft": peft_loop(simulation, tokens, start),
        "plain": ours(plain, jobs),
        "cohort": ours(cohort, jobs),
        "workers": with_workers(cohort, jobs),
    }
    examples = sum(len(own.train) for own in owned.values())
    used = sum(int(tokens.lengths[own.train].sum()) for own in owned.values())
    steps = sum(len(list(batches(own.train, 16, Amount(epochs=1), 0, ("", 1, c)))) for c, own in owned.items())
    seconds, losses, rates = {name: [] for name in ways}, {}, []
    for _ in range(REPEAT):
        rates.append(matrix_rate(simulation, used // steps))
        for name, run in ways.items():
            started = time.perf_counter()
            losses[name] = run()
            seconds[name].append(time.perf_counter() - started)
            print(name, round(examples / seconds[name][-1], 1), "examples/s, loss", round(losses[name], 4), flush=True)
    weights = sum(p.numel() for n, p in simulation.base.model.named_parameters() if p.ndim == 2 and "encoder" in n)
    rate = statistics.median(rates)
    result = {
        "machine": f"{platform.machine()}, {cores()} cores, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}",
        "work": {
            "shape": shape,
            "rank": simulation.spec.rank,
            "maps": len(simulation.spec.shapes),
            "clients": len(owned),
        },
        "examples": examples,
        "tokens": used,
        "matrix_gflops": rate,
        "ways": {},
    }
    for name, own in seconds.items():
        median = statistics.median(own)
        result["ways"][name] = {
            "seconds": [round(value, 2) for value in own],
            "examples_per_second": examples / median,
            "tokens_per_second": used / median,
            "times_peft": statistics.median(seconds["peft"]) / median,
            "share_of_matrix_rate": 4 * weights * used / median / 1e9 / rate,
            "loss": losses[name],
        }
    Path(out).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
