# SPDX-License-Identifier: Apache-2.0
"""The server's algebra at scale: thin factors against the dense route, in one run on one machine.

    python benchmarks/server_algebra.py OUT.json

Three questions, each timed as the median of several repetitions:

* The best rank-8 approximation of sum_k w_k B_k A_k of one 4096 x 4096 module, from 10 and from 50 clients of
  rank 8: stacked factors, QR and a small SVD (ours) against the dense sum and its SVD, float32 as other systems
  do it, and against float64, the arithmetic that ours uses.
* 1,000 clients of mixed rank 4 to 64 (mean 29): two modules measured, whose total rank is far above 4096, so
  that the sum is dense and one SVD follows. q and v in 32 layers, 64 modules, are extrapolated from them.
* The sum by slots (zero padding, replication, LoRA-A2) of the same 1,000 clients.

Peak memory is the process's own, sampled after each part.
"""

import json
import platform
import resource
import statistics
import sys
import time
from pathlib import Path

import torch

from fedlora.core.adapter import Adapter
from fedlora.core.lowrank import LowRank, compress
from fedlora.core.products import ProductAdder
from fedlora.core.slots import SlotAdder, whole

D, RANK = 4096, 8
MIXED = (4, 8, 8, 16, 16, 32, 32, 64, 64, 46)


def client(number, rank):
    draw = torch.Generator().manual_seed(number)
    A, B = torch.randn(rank, D, generator=draw) / 64, torch.randn(D, rank, generator=draw) / 64
    return 1.0 + number % 7, Adapter({"m": A}, {"m": B})


def added(terms):
    adder = ProductAdder({"m": (D, D)})
    for weight, adapter in terms:
        adder.add(weight, adapter)
    return adder.sums().mean()["m"]


def dense(terms, dtype):
    total, weight = torch.zeros(D, D, dtype=dtype), 0.0
    for own, adapter in terms:
        total += own * (adapter.output["m"].to(dtype) @ adapter.input["m"].to(dtype))
        weight += own
    return total / weight


def truncated(matrix):
    U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    return LowRank(Vh[:RANK], U[:, :RANK] * S[:RANK])


def seconds(work, repeat):
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - started)
    return statistics.median(times), result


def peak():
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def thin(clients):
    terms = [client(k, RANK) for k in range(clients)]
    ours, best = seconds(lambda: compress(added(terms), RANK), 5)
    single, other = seconds(lambda: truncated(dense(terms, torch.float32)), 1)
    double, _ = seconds(lambda: truncated(dense(terms, torch.float64)), 1)
    gap = (best.B @ best.A).double() - (other.B @ other.A).double()
    return {
        "clients": clients,
        "thin_seconds": ours,
        "dense_float32_seconds": single,
        "dense_float64_seconds": double,
        "times_faster_than_float32": single / ours,
        "times_faster_than_float64": double / ours,
        "relative_difference": float(gap.norm() / (other.B @ other.A).double().norm()),
    }


def many(clients=1000):
    ranks = [MIXED[k % len(MIXED)] for k in range(clients)]
    like = Adapter({"m": torch.zeros(max(ranks), D)}, {"m": torch.zeros(D, max(ranks))})
    modules = []
    for module in range(2):
        slots, drawing = SlotAdder(like), 0.0
        adder, adding, summing = ProductAdder({"m": (D, D)}), 0.0, 0.0
        for k, rank in enumerate(ranks):
            started = time.perf_counter()
            weight, own = client(1000 * module + k, rank)
            drawn = time.perf_counter()
            adder.add(weight, own)
            multiplied = time.perf_counter()
            slots.add(weight, whole(own))
            drawing, adding = drawing + drawn - started, adding + multiplied - drawn
            summing += time.perf_counter() - multiplied
        started = time.perf_counter()
        compress(adder.sums().mean()["m"], max(ranks))
        modules.append({"sum": adding, "svd": time.perf_counter() - started, "slots": summing})
        print(modules[-1], "MiB", peak(), flush=True)
    mean = {key: statistics.fmean(own[key] for own in modules) for key in modules[0]}
    return {
        "clients": clients,
        "ranks": "4 to 64, mean 29",
        "measured_seconds_per_module": modules,
        "extrapolated_to_64_modules_seconds": {key: 64 * value for key, value in mean.items()},
        "peak_mebibytes": peak(),
    }


def main(out):
    torch.manual_seed(0)
    result = {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}",
        "d": D,
    }
    for clients in (10, 50):
        result[f"{clients} clients of rank {RANK}"] = thin(clients)
        print(result[f"{clients} clients of rank {RANK}"], flush=True)
    result["1000 clients of mixed rank"] = many()
    Path(out).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
