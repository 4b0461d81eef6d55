# SPDX-License-Identifier: Apache-2.0
"""One round of local training, several ways, side by side in one run on one machine.

    python benchmarks/trainers.py DATA BASE OUT.json [NAME...]

The names are those of trainers.toml; without any, all. Every way runs in a process of its own and starts from the
same adapter and head, with the same clients, batches, epochs and optimiser:

* flower: Flower's simulation on Ray with a ClientApp on stock PEFT, one worker a core (ways.py, flower_app.py)
* peft: a loop over clients with stock PEFT on one resident model, batches padded to their longest text
* plain: our plain trainer, the oracle
* cohort: the cohort trainer in one process with all threads in its operators
* workers: the cohort trainer with one single-threaded worker a core, as `fedlora run` uses it

Told of each: examples and tokens a second, the mean loss, the most memory that its processes held together. Beside
them the rate of the matrix products at the shapes of the work, timed in the same run on all cores before and after,
and the arithmetic that the work needs (4 FLOP a weight and token with a frozen base: forward, and back to the
activations), so that the distance to the machine's limit is one number; and where the time of the cohort goes, by
kernel.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

HERE = Path(__file__).parent


def processes(parent):
    """A process and all below it."""
    found, waiting = [], [parent]
    while waiting:
        own = waiting.pop()
        found.append(own)
        try:
            for task in Path(f"/proc/{own}/task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue
    return found


def held(parent):
    """Megabytes that these processes hold together; what several share counts once."""
    total = 0
    for own in processes(parent):
        try:
            text = Path(f"/proc/{own}/smaps_rollup").read_text()
        except OSError:
            continue
        total += int(text.split("\nPss:")[1].split()[0]) if "\nPss:" in text else 0
    return total / 1024


def apart(*words):
    """Run ways.py in a process of its own; what it tells, with the most memory held."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "told.json"
        process = subprocess.Popen([sys.executable, str(HERE / "ways.py"), *words, str(out)])
        most = 0.0
        while process.poll() is None:
            most = max(most, held(process.pid))
            time.sleep(0.25)
        if process.returncode:
            sys.exit(f"{' '.join(words)} ended with {process.returncode}")
        return {**json.loads(out.read_text(encoding="utf-8")), "peak_mb": round(most)}


def measure(name, work, data, base):
    rates, ways = [apart("matrix", name, data, base)["gflops"]], {}
    for way in work["ways"]:
        ways[way] = apart(way, name, data, base)
        print(name, way, ways[way], flush=True)
    rates.append(apart("matrix", name, data, base)["gflops"])
    kernels = apart("kernels", name, data, base)["kernels"]
    rate = statistics.fmean(rates)
    for own in ways.values():
        own["examples_per_second"] = own["examples"] / own["seconds"]
        own["tokens_per_second"] = own["tokens"] / own["seconds"]
        own["share_of_matrix_rate"] = own["flop"] / own["seconds"] / 1e9 / rate
        own["times_peft"] = ways["peft"]["seconds"] / own["seconds"]
        if "flower" in ways:
            own["times_flower"] = ways["flower"]["seconds"] / own["seconds"]
    return {"work": work, "matrix_gflops": rates, "ways": ways, "kernels": kernels}


def main(data, base, out, *names):
    config = tomllib.loads((HERE / "trainers.toml").read_text(encoding="utf-8"))
    cores = len(os.sched_getaffinity(0))
    found = {"machine": f"{platform.machine()}, {cores} cores, load {os.getloadavg()[0]:.1f} at the start"}
    for name in names or config:
        found[name] = measure(name, config[name], data, base)
        Path(out).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
