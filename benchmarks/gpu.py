# SPDX-License-Identifier: Apache-2.0
"""The cohort trainer on a GPU against a loop over clients with stock PEFT, in one run, within 8 minutes.

    PYTHONPATH=src python3 benchmarks/gpu.py OUT.json [DEVICE] [small]

Two shapes with random weights in bfloat16, RoBERTa-base's and that of a LLaMA with 1B weights: 30 clients, batch 16
of 12 to 28 tokens, every linear map of the layers, rank 8, AdamW. OUT.json is written after every measurement, so that
what is known by then outlives a fault. In it:

- what the device gives at most: large products, a large copy;
- the largest difference of a client's loss between the cohort on the device and padded batches on the CPU, in float32;
- milliseconds a step and examples a second of the loop and of the cohort at several numbers of clients a pass, factors
  masked and grouped, with the rate that the arithmetic of the work (4 FLOP a weight and token) comes to; peak memory;
- the ways of computing attention and factors, each alone;
- where a step's time goes, kernel by kernel.

It needs torch, transformers and peft, and of fedlora nothing above `training`.
`small` shrinks everything, so that the script itself can be tried on a CPU: those figures say nothing.
"""

import json
import platform
import sys
import time
import traceback
import warnings
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
from gpu_models import BATCH, RANK, jobs_of, llama, moved_jobs, new_trainer, roberta, some_tokens
from gpu_ways import attention_ways, factor_ways, roofline, wait
from torch.nn import functional

from fedlora.core.seeds import numpy_stream
from fedlora.training.batches import padded
from fedlora.training.forward.packed import fastest_forward
from fedlora.training.forward.padded import PaddedForward

LIMIT = 400.0
"""Seconds after which no further measurement begins."""
ALL_IN_A_PASS = 10**9
WAYS = {"masked": float("inf"), "grouped": 0.0}
"""What the slots of all clients may cost, as a share of the base's products, before tokens are grouped by client."""


class Report:
    """What is known so far, in a file."""

    def __init__(self, out, device, small):
        self.began, self.out, self.device, self.small = time.perf_counter(), Path(out), device, small
        self.told = {"small": small, "environment": environment(device), "failed": {}, "left_out": []}

    def add(self, place, measure):
        """Put what a measurement gives at a place of the report; an error is told there, and the others go on."""
        where = " ".join(place)
        if time.perf_counter() - self.began > LIMIT:
            self.told["left_out"].append(where)
            return
        try:
            found = measure()
        except Exception as error:  # whatever a library or a driver says: the other measurements still count
            traceback.print_exc()
            self.told["failed"][where] = f"{type(error).__name__}: {error}"[:500]
        else:
            *above, last = place
            node = self.told
            for key in above:
                node = node.setdefault(key, {})
            node[last] = found
            print(f"{time.perf_counter() - self.began:6.1f} s  {where}: {found}", flush=True)
        self.told["seconds"] = time.perf_counter() - self.began
        self.out.write_text(json.dumps(self.told, indent=1) + "\n", encoding="utf-8")


def environment(device):
    import peft
    import transformers

    known = {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
             "peft": peft.__version__, "machine": platform.machine(), "device": device}  # fmt: skip
    if torch.device(device).type == "cuda":
        card = torch.cuda.get_device_properties(device)
        known |= {"device": card.name, "capability": f"{card.major}.{card.minor}", "memory": card.total_memory,
                  "cuda": torch.version.cuda, "driver": driver()}  # fmt: skip
    return known


def driver():
    try:
        return Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").splitlines()[0]
    except OSError:
        return None


def agreement(shape, device, way):
    """The largest difference of a client's loss after a few steps, cohort on the device against padded on the CPU."""
    steps = 3
    tokens, owned = some_tokens(4, steps)
    cpu = shape.base("cpu", torch.float32)
    there = shape.base("cpu", torch.float32).copied_to(device)
    losses = []
    for base, where in ((cpu, None), (there, device)):
        spec = base.spec(RANK, 2.0, head="shared")
        forward = PaddedForward(base, spec) if where is None else fastest_forward(base, spec, where, ALL_IN_A_PASS)
        if where is not None:
            forward = replace(forward, masked_share=WAYS[way])
        trainer = new_trainer(forward, tokens, owned, steps)
        losses.append([fitted.loss for fitted in trainer.fit(moved_jobs(trainer, owned))])
    return max(abs(one - other) for one, other in zip(*losses, strict=True))


def cohort(base, device, clients, together, way, few, many):
    """A step of so many clients, `together` of them a pass: the time that more steps take more."""
    share = ALL_IN_A_PASS if together == clients else (together + 0.5) * BATCH * 20
    spec, taken = base.spec(RANK, 2.0, head="shared"), {}
    forward = replace(fastest_forward(base, spec, device, share), masked_share=WAYS[way])
    tokens, owned = some_tokens(clients, many)
    cuda = torch.device(device).type == "cuda"
    for steps in (few, few, many):  # the first one warms up
        trainer = new_trainer(forward, tokens, owned, steps)
        jobs = jobs_of(trainer, owned)
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        wait(device)
        began = time.perf_counter()
        answers = trainer.fit(jobs)
        wait(device)
        taken[steps] = time.perf_counter() - began
    peak = torch.cuda.max_memory_allocated() if cuda else None
    return told_of_step((taken[many] - taken[few]) / (many - few), base, tokens, clients, many) | {
        "fit_seconds": taken[many], "steps": many, "peak_bytes": peak, "loss": answers[0].loss,
    }  # fmt: skip


def told_of_step(seconds, base, tokens, clients, steps):
    weights = sum(d_out * d_in for d_out, d_in in base.shapes.values())
    flop = 4 * weights * len(tokens.ids) / steps
    return {
        "step_ms": 1000 * seconds,
        "examples_per_second": clients * BATCH / seconds,
        "tflops": flop / seconds / 1e12,
    }


def peft_loop(base, device, clients, few, many):
    """The same by a loop over clients with stock PEFT on padded batches."""
    from peft import LoraConfig, get_peft_model

    tokens, owned = some_tokens(clients, many)
    config = LoraConfig(task_type="SEQ_CLS", r=RANK, lora_alpha=2 * RANK, target_modules=list(base.shapes))
    model = get_peft_model(base.model, config).eval()
    trained, taken = [weight for weight in model.parameters() if weight.requires_grad], {}
    for steps in (few, few, many):
        wait(device)
        began = time.perf_counter()
        for client, part in owned.items():
            optimizer = torch.optim.AdamW(trained, lr=5e-4, weight_decay=0.0, fused=True)
            order = numpy_stream(0, "batches", 1, client, 0).permutation(part.train)
            for step in range(steps):
                batch = order[BATCH * step : BATCH * (step + 1)]
                ids, mask = padded(tokens, batch, 1, device)
                labels = torch.from_numpy(tokens.labels[batch]).to(device)
                loss = functional.cross_entropy(model(input_ids=ids, attention_mask=mask).logits.float(), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        wait(device)
        taken[steps] = time.perf_counter() - began
    return told_of_step((taken[many] - taken[few]) / (many - few), base, tokens, clients, many)


def kernels(base, device, clients, way):
    """Of one step of all clients in a pass: kernels launched, their time, and which take most of it."""
    from torch.profiler import ProfilerActivity, profile

    spec, cuda = base.spec(RANK, 2.0, head="shared"), torch.device(device).type == "cuda"
    forward = replace(fastest_forward(base, spec, device, ALL_IN_A_PASS), masked_share=WAYS[way])
    found = {}
    for steps in (1, 1, 2):
        tokens, owned = some_tokens(clients, steps)
        trainer = new_trainer(forward, tokens, owned, steps)
        jobs = jobs_of(trainer, owned)
        with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as seen:
            trainer.fit(jobs)
            wait(device)
        found[steps] = {event.key: (event.count, _microseconds(event, cuda)) for event in seen.key_averages()}
    step = {key: [b - a for a, b in zip(found[1].get(key, (0, 0)), now, strict=True)] for key, now in found[2].items()}
    launches = sum(count for key, (count, _) in step.items() if "LaunchKernel" in key)
    slowest = sorted(step.items(), key=lambda item: -item[1][1])[:15]
    total = sum(time_ for _, time_ in step.values())
    waits = sum(count for key, (count, _) in step.items() if "Synchronize" in key)
    return {"launches": launches, "waits": waits, "busy_ms": total / 1000,
            "slowest": [[key, count, time_ / 1000] for key, (count, time_) in slowest]}  # fmt: skip


def _microseconds(event, cuda):
    return getattr(event, "self_device_time_total", 0.0) if cuda else event.self_cpu_time_total


def measure(report, shape, sizes, clients, few, many):
    """All that is told of a shape."""
    device, dtype, name = report.device, torch.bfloat16, shape.name
    repeats = 2 if report.small else 10
    base = shape.base(device, dtype)
    tokens, owned = some_tokens(clients, 1)
    for together in sizes:
        for way in WAYS if together > 1 else ("masked",):
            place = (name, "cohort", way, str(together))
            report.add(place, lambda n=together, w=way: cohort(base, device, max(clients, n), n, w, few, many))
    report.add((name, "peft"), lambda: peft_loop(shape.base(device, dtype), device, clients, few, many))
    ways = (tokens, owned, clients, base, device, dtype, repeats)
    report.add((name, "attention_ms"), lambda: attention_ways(*ways))
    report.add((name, "factors_ms"), lambda: factor_ways(*ways))
    for way in WAYS if not report.small else ():  # a profiler's own work would take most of a trial's time
        report.add((name, "kernels", way), lambda w=way: kernels(base, device, clients, w))


def main(out, device="cuda", *words):
    warnings.filterwarnings("ignore")
    small = "small" in words
    report = Report(out, device, small)
    report.add(("limits",), lambda: roofline(device, small))
    for way in WAYS:
        report.add(("loss_difference_float32", way), lambda w=way: agreement(roberta(small), device, w))
    sizes, clients = ((3, 1), 3) if small else ((30, 60, 15, 8, 4, 1), 30)
    steps = (1, 2) if small else (2, 6)
    measure(report, roberta(small), sizes, clients, *steps)
    measure(report, llama(small), sizes[:1] if small else (30, 8, 1), clients, *steps)
    print(json.dumps(report.told, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
