# SPDX-License-Identifier: Apache-2.0
"""Memory of a run: by the number of clients, and over many rounds.

    python benchmarks/memory.py OUT.json

A generated base of 2 layers and width 32, generated examples, iid, one step a client and round; every run in a
process of its own, with a run folder. Told: the peak of its resident memory with 100 and with 10,000 clients
(20,000 examples, 100 clients a round, scores of everyone at the end, adapters and report included), and over
500 rounds of 5 of 100 clients the memory after every 50.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

METHODS = ("lora-a2", "fedsa")


def one(method, clients, a_round, examples, rounds, out):
    """In this process: run, and write what was seen."""
    import resource

    import fedlora
    from fedlora.app.run.progress import quiet_libraries
    from fedlora.training.generated.encoder import generated_base
    from fedlora.training.generated.requests import generated_dataset

    quiet_libraries()
    config = {
        "run": {"rounds": rounds},
        "split": {"kind": "iid", "clients": clients},
        "model": {"base": str(generated_base(width=32, layers=2, steps=50))},
        "clients": {"per_round": a_round},
        "train": {"steps": 1, "batch_size": 16},
        "method": {"name": method},
        "evaluate": {"every": 0},
    }
    seen = {}
    with tempfile.TemporaryDirectory() as folder:
        run = fedlora.run(config, generated_dataset(examples, 1000), out=folder)
        for record in run:
            if record.round % 50 == 0:
                seen[record.round] = resident()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    Path(out).write_text(json.dumps({"peak_mb": peak, "resident_mb": seen}), encoding="utf-8")


def resident():
    """Megabytes of this process in memory now."""
    fields = Path("/proc/self/status").read_text(encoding="utf-8").split("VmRSS:")[1]
    return int(fields.split()[0]) / 1024


def apart(method, *numbers):
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "seen.json"
        subprocess.run([sys.executable, __file__, "one", method, *map(str, numbers), str(out)], check=True)
        return json.loads(out.read_text(encoding="utf-8"))


def main(out):
    result = {"clients": {}, "rounds": {}}
    for method in METHODS:
        few, many = apart(method, 100, 100, 20_000, 2), apart(method, 10_000, 100, 20_000, 2)
        ratio = many["peak_mb"] / few["peak_mb"]
        result["clients"][method] = {"100": few["peak_mb"], "10000": many["peak_mb"], "ratio": ratio}
        print(method, "100 clients", few["peak_mb"], "10,000 clients", many["peak_mb"], "ratio", ratio, flush=True)
    for method in METHODS:
        seen = result["rounds"][method] = apart(method, 100, 5, 4_000, 500)
        print(method, seen, flush=True)
    Path(out).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1] == "one":
        one(sys.argv[2], *map(int, sys.argv[3:7]), sys.argv[7])
    else:
        main(sys.argv[1])
