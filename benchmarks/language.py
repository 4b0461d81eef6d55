# SPDX-License-Identifier: Apache-2.0
"""One round of local training of a language model, several ways, side by side in one run on one machine.

    python benchmarks/language.py benchmarks/language.toml DATA BASE OUT.json

DATA is a folder of prompts with completions, BASE a causal language model. Every way runs in a process of its own, all
ways in turn, and starts from the same adapter on all linear maps, with the same token ids, clients, batches and epochs:

* peft: a loop over clients with stock PEFT on one resident model, batches padded to their longest example, labels -100
  where nothing is learned, transformers' own loss; all threads in the operators
* flower: Flower's simulation on Ray with a ClientApp of the same, one worker a core (language_app.py); left out where
  Ray is not installed
* padded: our oracle, one model after the other
* ours: packed, one single-threaded worker a core, as `fedlora run` does it
* ours, checkpointing: with `train.gradient_checkpointing`

Told of each: seconds of every turn, tokens and supervised tokens a second of the faster one, the mean loss a token, the
most memory that its processes held together; and the rate of the matrix products before and after.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import tomllib
import warnings
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch

HERE = Path(__file__).parent
WAYS = ("peft", "flower", "padded", "ours", "ours, checkpointing")


def problem(work, data, base, way):
    """The simulation that all ways are given."""
    from fedlora.app.build.simulation import build
    from fedlora.app.config.schema import read_config

    words = [
        "data.source=files",
        f"data.path={data}",
        f"data.train_examples={work['examples']}",
        "model.task=generate",
        f"model.base={base}",
        f"model.max_length={work['max_length']}",
        "split.kind=iid",
        f"split.clients={work['clients']}",
        f"adapter.rank={work['rank']}",
        f"train.lr={work['lr']}",
        f"train.batch_size={work['batch']}",
        "method.name=fedit",
        f"train.gradient_checkpointing={str(way.endswith('checkpointing')).lower()}",
    ]
    return build(read_config(None, words))


def rounds(simulation, trainer, workers):
    """Our round; the mean loss a token, as the other ways tell it."""
    from ways import orders

    from fedlora.core.rounds import Reply
    from fedlora.federation.executor import Inline, Threads
    from fedlora.federation.local import LocalTransport

    members = simulation.federation.transport.roster()
    executor = partial(Threads, count=workers) if workers else Inline
    pipeline = simulation.federation.pipeline
    transport = LocalTransport(members, pipeline, trainer, client_batch=1, executor=executor)
    tokens, parts = simulation.trainer._train, simulation.split.clients
    learned = {client: int(tokens.supervised_lengths[owned.train].sum()) for client, owned in parts.items()}

    def run():
        replies = list(transport.exchange(orders(simulation)))
        assert all(isinstance(reply, Reply) for reply in replies), replies
        return sum(reply.loss * learned[reply.client] for reply in replies) / sum(learned.values())

    return run


def padded_way(simulation, work):
    from fedlora.training.forward.padded import PaddedForward
    from fedlora.training.loop import ModelTrainer

    trainer = simulation.trainer
    other = ModelTrainer(
        PaddedForward(simulation.base, simulation.spec), trainer._task, trainer._settings,
        train=trainer._train, test=trainer._test, owned=simulation.split.clients, seed=0, rounds=20,
    )  # fmt: skip
    return rounds(simulation, other, None)


def ours_way(simulation, work):
    from fedlora.core.machine import cores

    return rounds(simulation, simulation.trainer, cores())


def labelled(tokens, batch, padding):
    """Token ids, mask and labels (-100 where nothing is learned) of a batch."""
    from fedlora.training.batches import padded

    ids, mask = padded(tokens, batch, padding)
    labels = torch.full_like(ids, -100)
    for row, example in enumerate(batch):
        learned = torch.from_numpy(tokens.mask(example))
        labels[row, : len(learned)][learned] = ids[row, : len(learned)][learned]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def stock_model(base, spec):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(
        task_type="CAUSAL_LM", r=spec.rank, lora_alpha=spec.scale * spec.rank, target_modules="all-linear"
    )
    return get_peft_model(model, config).eval()  # without dropout, as ours


def start_of(simulation):
    start = simulation.federation.method.init(simulation.spec, 0).adapter
    state = {}
    for name in simulation.spec.shapes:
        state[f"base_model.model.{name}.lora_A.weight"] = start.input[name]
        state[f"base_model.model.{name}.lora_B.weight"] = start.output[name]
    return state


def epoch(model, batches, lr):
    """One epoch by hand; the sum of losses, and of how many tokens."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr, weight_decay=0.0)
    total = count = 0
    for batch in batches:
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        learned = int((batch["labels"][:, 1:] != -100).sum())
        total, count = total + float(loss.detach()) * learned, count + learned
    return total, count


def client_batches(simulation, work, client, owned):
    from fedlora.core.seeds import numpy_stream

    tokens, size = simulation.trainer._train, work["batch"]
    order = numpy_stream(0, "batches", 1, client, 0).permutation(owned.train)
    padding = simulation.base.padding
    return [labelled(tokens, order[first : first + size], padding) for first in range(0, len(order), size)]


def peft_way(simulation, work):
    from peft import set_peft_model_state_dict

    model, state = stock_model(simulation.base.source, simulation.spec), start_of(simulation)

    def run():
        total = count = 0
        for client, owned in simulation.split.clients.items():
            set_peft_model_state_dict(model, state)
            loss, learned = epoch(model, client_batches(simulation, work, client, owned), work["lr"])
            total, count = total + loss, count + learned
        return total / count

    return run


def flower_way(simulation, work):
    from language_app import simulate

    from fedlora.core.machine import cores

    parts = {
        client: client_batches(simulation, work, client, owned) for client, owned in simulation.split.clients.items()
    }
    return partial(simulate, parts, start_of(simulation), simulation.base.source, simulation.spec, work["lr"], cores())


RUNS = {
    "peft": peft_way,
    "flower": flower_way,
    "padded": padded_way,
    "ours": ours_way,
    "ours, checkpointing": ours_way,
}


def one(way, config, data, base, out):
    """One way in this process."""
    import ways

    ways.quiet_libraries()
    warnings.simplefilter("ignore")
    work = tomllib.loads(Path(config).read_text(encoding="utf-8"))
    simulation = problem(work, data, base, way)
    tokens, parts = simulation.trainer._train, simulation.split.clients.values()
    if way == "matrix":
        weights = [
            p
            for n, p in simulation.base.model.named_parameters()
            if n.removesuffix(".weight") in simulation.spec.shapes
        ]
        told = {"gflops": rate(weights, work["batch"] * int(tokens.lengths.mean()))}
    else:
        run = RUNS[way](simulation, work)
        started = time.perf_counter()
        loss = run()
        seconds = time.perf_counter() - started
        learned = sum(int(tokens.supervised_lengths[owned.train].sum()) for owned in parts)
        count = sum(int(tokens.lengths[owned.train].sum()) for owned in parts)
        told = {"seconds": seconds, "loss": loss, "tokens": count, "supervised_tokens": learned}
    Path(out).write_text(json.dumps(told), encoding="utf-8")


def rate(weights, rows):
    """GFLOP/s of the frozen maps' products with a batch's tokens, one thread on each core at once."""
    from concurrent.futures import ThreadPoolExecutor

    from fedlora.core.machine import cores

    inputs = {weight.shape[1]: torch.randn(rows, weight.shape[1]) for weight in weights}

    def products(_):
        with torch.inference_mode():
            for weight in weights:
                inputs[weight.shape[1]] @ weight.T

    with ThreadPoolExecutor(cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(products, range(10)))
        started = time.perf_counter()
        list(pool.map(products, range(100)))
        return 100 * sum(2 * rows * weight.numel() for weight in weights) / (time.perf_counter() - started) / 1e9


def apart(*words):
    """One way in a process of its own; what it tells, with the most memory held."""
    from trainers import held

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "told.json"
        process = subprocess.Popen([sys.executable, str(HERE / "language.py"), "--one", *words, str(out)])
        most = 0.0
        while process.poll() is None:
            most = max(most, held(process.pid))
            time.sleep(0.25)
        if process.returncode:
            sys.exit(f"{' '.join(words)} ended with {process.returncode}")
        return {**json.loads(out.read_text(encoding="utf-8")), "peak_mb": round(most)}


def main(config, data, base, out):
    work = tomllib.loads(Path(config).read_text(encoding="utf-8"))
    cores = len(os.sched_getaffinity(0))
    machine = (
        f"{platform.machine()}, {cores} cores, torch {torch.__version__}, load {os.getloadavg()[0]:.1f} at the start"
    )
    names = [way for way in WAYS if way != "flower" or find_spec("ray")]
    rates, found = [apart("matrix", config, data, base)["gflops"]], {name: [] for name in names}
    for turn in range(work["turns"]):
        for name in names:
            found[name].append(apart(name, config, data, base))
            print(turn, name, found[name][-1], flush=True)
    rates.append(apart("matrix", config, data, base)["gflops"])
    ways = {name: told(turns) for name, turns in found.items()}
    for values in ways.values():
        values["times_peft"] = values["tokens_per_second"] / ways["peft"]["tokens_per_second"]
        if "flower" in ways:
            values["times_flower"] = values["tokens_per_second"] / ways["flower"]["tokens_per_second"]
    whole = {"machine": machine, "work": work, "matrix_gflops": rates, "ways": ways}
    Path(out).write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def told(turns):
    """Of the turns of one way: all seconds, and the rates of the faster one."""
    best = min(turns, key=lambda turn: turn["seconds"])
    return {
        "seconds": [turn["seconds"] for turn in turns],
        "loss": best["loss"],
        "tokens_per_second": best["tokens"] / best["seconds"],
        "supervised_tokens_per_second": best["supervised_tokens"] / best["seconds"],
        "peak_mb": max(turn["peak_mb"] for turn in turns),
    }


if __name__ == "__main__":
    one(*sys.argv[2:]) if sys.argv[1] == "--one" else main(*sys.argv[1:])
