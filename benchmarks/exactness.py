# SPDX-License-Identifier: Apache-2.0
"""How far each method's aggregate is from the mean of what its clients learned.

    python benchmarks/exactness.py OUT.json

Ten clients of the stand-in problem (true gradient steps on small linear maps, data of their own), two maps
that are not square, ranks 1 to 8 where the method mixes them, else 4; five rounds. In every round, in
effective deltas and Frobenius norms over both maps:

* update: |new - old - sum_k w_k (trained_k - start_k)| / |sum_k w_k (trained_k - start_k)|
* product: |new - sum_k w_k trained_k| / |sum_k w_k trained_k|

The JSON holds the largest of each over the rounds. A method without a global model has neither.
"""

import json
import platform
import sys
from pathlib import Path

import torch

from fedlora.core.adapter import effective
from fedlora.federation.pipeline import Pipeline
from fedlora.laws.evidence import moves
from fedlora.laws.world import World, play
from fedlora.methods import BUILT_IN

MIXED, EQUAL = (1, 1, 2, 2, 2, 4, 4, 8, 8, 8), (4,) * 10


def world(method):
    mixed = method.facts.mixed_ranks and "lora" in method.facts.kinds
    return World(
        shapes=((24, 16), (12, 40)),
        ranks=MIXED if mixed else EQUAL,
        examples=(9, 3, 5, 8, 2, 7, 6, 4, 3, 9),
        rounds=5,
        absent=frozenset({(3, 1), (4, 7)}),
        lost=frozenset({(2, 5)}),
        scale=2.0,
        head="frozen",
        wire="float32",
        seed=3,
        kind="lora" if "lora" in method.facts.kinds else "dense",
    )


def errors(method):
    run = play(Pipeline(method), world(method))
    found = {"update": [], "product": []}
    for round, server in enumerate(run.servers[1:], start=1):
        before, after = method.result(run.servers[round - 1].state), method.result(server.state)
        if before is None or after is None:
            return None
        old, new = effective(before, run.world.spec), effective(after, run.world.spec)
        mean = moves(run, round, run.accepted(round))
        for name, place in (("update", 0), ("product", 1)):
            flat = [(new[m] - (old[m] if name == "update" else 0.0) - mean[m][place], mean[m][place]) for m in new]
            off, whole = (torch.cat([pair[k].flatten() for pair in flat]).norm() for k in (0, 1))
            found[name].append(float(off / whole))
    return {name: max(values) for name, values in found.items()}


def main(out):
    methods = {}
    for name, kind in BUILT_IN.items():
        method = kind()
        if method.facts.centralized:
            continue
        ranks = "-" if "lora" not in method.facts.kinds else "1 to 8" if method.facts.mixed_ranks else "4"
        methods[name] = {"exact": method.facts.exact, "ranks": ranks, "errors": errors(method)}
        print(f"{name:10} {method.facts.exact:18} ranks {ranks:7} {methods[name]['errors']}")
    told = {"methods": methods, "machine": platform.machine(), "torch": torch.__version__}
    Path(out).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
