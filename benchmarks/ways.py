# SPDX-License-Identifier: Apache-2.0
"""The ways that trainers.py compares, each as it is run in a process of its own: `ways.py WAY NAME DATA BASE OUT`."""

import json
import sys
import time
import tomllib
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional

from fedlora.app.build.simulation import build
from fedlora.app.config.schema import read_config
from fedlora.app.run.progress import quiet_libraries
from fedlora.core.machine import cores
from fedlora.core.rounds import Order, Reply
from fedlora.core.seeds import numpy_stream
from fedlora.federation.executor import Inline, Threads
from fedlora.federation.local import LocalTransport
from fedlora.training.batches import batches, padded
from fedlora.training.forward.padded import PaddedForward
from fedlora.training.loop import ModelTrainer
from fedlora.training.tasks.classification import Classification

LR, BATCH, RATIO = 5e-4, 16, 5.0


def problem(name, data, base, examples=None):
    work = tomllib.loads((Path(__file__).parent / "trainers.toml").read_text(encoding="utf-8"))[name]
    words = ["data.source=files", f"data.path={data}", f"model.base={base}", f"adapter.rank={work['rank']}"]
    words += [
        f"data.train_examples={examples or work['examples']}",
        "split.clients=20",
        "split.alpha=0.5",
        f"train.lr={LR}",
    ]
    words += [f"method.name={work['method']}"]
    if "dtype" in work:
        words.append(f"model.dtype={work['dtype']}")
    if "targets" in work:
        words.append(f"adapter.targets={json.dumps(work['targets'])}")
    return build(read_config(None, words)), work


def orders(simulation):
    """What the server asks in round 1."""
    method, spec, own = simulation.federation.method, simulation.spec, simulation.federation.transport.roster()
    state = method.init(spec, 0)
    head = {"head": simulation.trainer.head}
    return [Order("train", 1, client, {"adapter": method.dispatch(state, client, 1), **head}) for client in own]


def ours(simulation, trainer, client_batch, workers):
    transport = LocalTransport(
        simulation.federation.transport.roster(),
        simulation.federation.pipeline,
        trainer,
        client_batch=client_batch,
        executor=partial(Threads, count=workers) if workers else Inline,
    )

    def run():
        replies = list(transport.exchange(orders(simulation)))
        assert all(isinstance(reply, Reply) for reply in replies), replies
        sizes = {client.id: client.examples for client in simulation.federation.transport.roster()}
        return sum(reply.loss * sizes[reply.client] for reply in replies) / sum(sizes.values())

    return run


def plain(simulation, work):
    own = simulation.trainer
    trainer = ModelTrainer(
        PaddedForward(simulation.base, simulation.spec), Classification(simulation.base.labels), own._settings,
        train=own._train, test=own._test, owned=simulation.split.clients, seed=0, rounds=20,
    )  # fmt: skip
    return ours(simulation, trainer, 1, None)


def cohort(simulation, work):
    return ours(simulation, simulation.trainer, 20, None)


def workers(simulation, work):
    return ours(simulation, simulation.trainer, 1, cores())


def peft(simulation, work):
    """What its documentation shows: one model, one adapter, loaded anew for every client."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from transformers import AutoModelForSequenceClassification

    spec, dataset, tokens = simulation.spec, simulation.dataset, simulation.trainer._train
    start = simulation.federation.method.init(spec, 0).adapter
    rank = next(iter(start.ranks().values()))
    model = AutoModelForSequenceClassification.from_pretrained(
        sys.argv[4], num_labels=len(dataset.labels), dtype=getattr(torch, work.get("dtype", "float32"))
    ).eval()
    config = LoraConfig(
        task_type="SEQ_CLS",
        r=rank,
        lora_alpha=spec.scale * rank,
        target_modules=list(spec.shapes),
        modules_to_save=["classifier"],
    )
    model = get_peft_model(model, config).eval()
    state = {}
    for name in spec.shapes:
        state[f"base_model.model.{name}.lora_A.weight"] = start.input[name]
        state[f"base_model.model.{name}.lora_B.weight"] = start.output[name]
    for name, part in simulation.trainer.head.items():
        state[f"base_model.model.{name}"] = part
    factors = {name: own for name, own in model.named_parameters() if "lora_" in name}
    head = [own for name, own in model.named_parameters() if "modules_to_save" in name]
    selects = work["method"] == "lora-a2"
    if selects:
        for name, own in factors.items():
            own.requires_grad_("lora_B" in name)
    B = {
        name: next(own for full, own in factors.items() if f".{name}.lora_B" in full) for name in spec.shapes
    }  # fmt: skip

    def epoch(client, owned, stream, masks):
        set_peft_model_state_dict(model, state)
        trained = [own for own in factors.values() if own.requires_grad]
        groups = [{"params": trained, "lr": LR * (RATIO if selects else 1.0)}, {"params": head, "lr": LR}]
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
        total = 0.0
        order = numpy_stream(0, stream, 1, client, 0).permutation(owned)
        for first in range(0, len(order), BATCH):
            batch = order[first : first + BATCH]
            ids, mask = padded(tokens, batch, simulation.base.padding)
            labels = torch.from_numpy(tokens.labels[batch])
            loss = functional.cross_entropy(model(input_ids=ids, attention_mask=mask).logits, labels)
            optimizer.zero_grad()
            loss.backward()
            for name, own in (masks or {}).items():
                B[name].grad *= own
            optimizer.step()
            total += float(loss.detach()) * len(labels)
        return total

    def one(client, owned):
        masks = None
        if selects:
            epoch(client, owned, "probe batches", None)
            scores = [own.detach().norm(dim=0) * start.input[name].norm(dim=1) for name, own in B.items()]
            lowest = torch.cat(scores).topk(spec.rank * len(B)).values[-1]
            masks = {name: (score >= lowest).float() for name, score in zip(B, scores, strict=True)}
        return epoch(client, owned, "batches", masks)

    def run():
        parts = simulation.split.clients
        total = sum(one(client, own.train) for client, own in parts.items())
        return total / sum(len(own.train) for own in parts.values())

    return run


def flower(simulation, work):
    from flower_app import simulate

    def run():
        return simulate(simulation, sys.argv[4], LR, BATCH, cores())

    return run


def encoder_weights(simulation):
    layers = simulation.base.model.base_model.encoder
    return [own for own in layers.parameters() if own.ndim == 2]


def cost(simulation, work):
    """Examples, tokens and the floating-point operations that a round needs."""
    tokens, owned = simulation.trainer._train, simulation.split.clients
    examples = sum(len(own.train) for own in owned.values())
    used = sum(int(tokens.lengths[own.train].sum()) for own in owned.values())
    passes = 2 if work["method"] == "lora-a2" else 1
    weights = sum(own.numel() for own in encoder_weights(simulation))
    return {"examples": examples, "tokens": passes * used, "flop": passes * 4 * weights * used}


def matrix(simulation):
    """GFLOP/s of the frozen maps' products with a batch's tokens, one thread on each core at once."""
    tokens, owned = simulation.trainer._train, simulation.split.clients
    steps = sum(len(list(batches(own.train, BATCH, simulation.trainer._settings.duration, 0, ("", 1, c))))
                for c, own in owned.items())  # fmt: skip
    rows = sum(int(tokens.lengths[own.train].sum()) for own in owned.values()) // steps
    weights = [own.detach() for own in encoder_weights(simulation)]
    inputs = {own.shape[1]: torch.randn(rows, own.shape[1]).to(own.dtype) for own in weights}

    def products(_):
        for own in weights:
            inputs[own.shape[1]] @ own.T

    with ThreadPoolExecutor(cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(products, range(10)))
        started = time.perf_counter()
        list(pool.map(products, range(100)))
        return 100 * sum(2 * rows * own.numel() for own in weights) / (time.perf_counter() - started) / 1e9


KINDS = {
    "matrix products": ("addmm", "aten::mm", "bmm"),
    "attention": ("scaled_dot", "flash"),
    "layer norm": ("layer_norm",),
    "GELU": ("gelu",),
    "copies and concatenation": ("copy", "cat", "contiguous", "clone"),
    "sums and products": ("add", "mul", "masked_fill", "sum", "div", "sub"),
    "optimiser": ("addcmul", "addcdiv", "lerp", "sqrt", "_foreach"),
    "lookup": ("index", "embedding", "gather", "select"),
}


def kernels(simulation):
    """The share of each kind of kernel in the time of one thread."""
    torch.set_num_threads(1)
    run = ours(simulation, simulation.trainer, 1, None)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        started = time.perf_counter()
        run()
        wall = time.perf_counter() - started
    shares = dict.fromkeys(KINDS, 0.0)
    for event in profile.key_averages():
        for kind, words in KINDS.items():
            if any(word in event.key for word in words):
                shares[kind] += event.self_cpu_time_total / 1e6 / wall
                break
    shares["everything else, Python too"] = 1.0 - sum(shares.values())
    return shares


WAYS = {"flower": flower, "peft": peft, "plain": plain, "cohort": cohort, "workers": workers}


def main(way, name, data, base, out):
    quiet_libraries()
    warnings.simplefilter("ignore")
    simulation, work = problem(name, data, base, 600 if way == "kernels" else None)  # a profile remembers every call
    if way == "matrix":
        told = {"gflops": matrix(simulation)}
    elif way == "kernels":
        told = {"kernels": kernels(simulation)}
    else:
        run = WAYS[way](simulation, work)
        started = time.perf_counter()
        loss = run()
        told = {"seconds": time.perf_counter() - started, "loss": loss, **cost(simulation, work)}
    Path(out).write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
