# SPDX-License-Identifier: Apache-2.0
"""What it saves to adapt the top layers alone and to compute once what lies below them, in one run on one machine.

    python benchmarks/trunk.py benchmarks/trunk.toml DATA BASE OUT.json

One round of local training of the same clients, each way in a process of its own, all ways in turn, one
single-threaded worker a core. Of the code of an earlier commit and of this one, with the config's layers or all:

* before, whole: the earlier code, every layer adapted
* before, top: the earlier code, the config's layers adapted, those below them computed in every pass
* whole: this code, every layer
* top: this code, the config's layers, with train.trunk_cache_gb = 0
* trunk: likewise, with what lies below computed before; `load_seconds` is what it took to find it in the cache
* first use: what it takes to compute and keep it, of training and test examples, in an empty cache
* peft: a loop over clients with stock PEFT on the config's layers (ways.py)
* flower: Flower's simulation on Ray with the same (flower_app.py); left out where Ray is not installed

Told of each: seconds of every turn, examples a second of the faster one, the mean loss; and beside them the matrix rate
before and after, and the ratios that count.
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
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
WAYS = ("before, whole", "before, top", "whole", "top", "trunk", "first use", "peft", "flower")
RATIOS = {
    "top two over whole, before": ("before, top", "before, whole"),
    "this code over before, whole": ("whole", "before, whole"),
    "this code over before, top": ("top", "before, top"),
    "trunk over top": ("trunk", "top"),
    "trunk over before, whole": ("trunk", "before, whole"),
    "trunk over peft": ("trunk", "peft"),
    "trunk over flower": ("trunk", "flower"),
}


def one(way, config, data, base, out):
    """One way in this process; the code is that of PYTHONPATH."""
    import ways

    ways.quiet_libraries()
    warnings.simplefilter("ignore")
    work = tomllib.loads(Path(config).read_text(encoding="utf-8"))
    words = [
        "data.source=files",
        f"data.path={data}",
        f"data.train_examples={work['examples']}",
        f"model.base={base}",
        f"adapter.rank={work['rank']}",
        f"method.name={work['method']}",
        f"split.clients={work['clients']}",
        f"split.alpha={work['alpha']}",
        f"train.lr={ways.LR}",
    ]
    if not way.endswith("whole"):
        words.append(f"adapter.layers={work['layers']}")
    if way in {"whole", "top", "peft", "flower", "matrix"}:
        words.append("train.trunk_cache_gb=0")
    simulation = ways.build(ways.read_config(None, words))
    told = {"fedlora": ways.__file__}
    if way == "matrix":
        told["gflops"] = ways.matrix(simulation)
    elif way == "first use":
        told["seconds"] = timed(simulation.trainer.prepare)[0]
        files = Path(os.environ["XDG_CACHE_HOME"]).glob("fedlora/trunk/*/states")
        told["bytes"] = sum(path.stat().st_size for path in files)
        told["examples"] = len(simulation.dataset.train) + len(simulation.dataset.test)
    else:
        if way == "trunk":
            told["load_seconds"] = timed(simulation.trainer.prepare)[0]
        run = ways.WAYS.get(way, ways.workers)(simulation, work)
        told["seconds"], told["loss"] = timed(run)
        told["examples"] = sum(len(client.train) for client in simulation.split.clients.values())
    Path(out).write_text(json.dumps(told), encoding="utf-8")


def timed(work):
    """Seconds, and what came of it."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def apart(checkout, cache, way, *words):
    """What one way tells, in a process of its own, on the code of a checkout and with a cache folder."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "told.json"
        paths = os.pathsep.join(str(checkout / part) for part in ("src", "benchmarks"))
        env = {**os.environ, "PYTHONPATH": paths, "XDG_CACHE_HOME": str(cache)}
        line = [sys.executable, "-P", str(ROOT / "benchmarks" / "trunk.py"), way, *words, str(out)]
        subprocess.run(line, env=env, check=True, cwd=checkout)
        told = json.loads(out.read_text(encoding="utf-8"))
    assert Path(told.pop("fedlora")).is_relative_to(checkout)
    return told


def main(config, data, base, out):
    from commits import extract  # not above: a way of the earlier code runs this file with that code's folder

    work = tomllib.loads(Path(config).read_text(encoding="utf-8"))
    given = tuple(str(Path(path).absolute()) for path in (config, data, base))
    found = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start",
        "work": work,
    }
    with tempfile.TemporaryDirectory() as folder:
        before, cache = extract(work["before"], Path(folder) / "before"), Path(folder) / "cache"
        rates = [apart(ROOT, cache, "matrix", *given)["gflops"]]
        apart(ROOT, cache, "first use", *given)  # for `trunk`; what counts is timed below, in empty caches
        told = {way: [] for way in WAYS if way != "flower" or find_spec("ray")}
        for turn in range(work["turns"]):
            for way, runs in told.items():
                place = cache if way != "first use" else Path(folder) / f"empty {turn}"
                runs.append(apart(before if way.startswith("before") else ROOT, place, way, *given))
                print(way, runs[-1], flush=True)
        rates.append(apart(ROOT, cache, "matrix", *given)["gflops"])
    found["matrix_gflops"] = rates
    found["ways"] = {way: summed(runs) for way, runs in told.items()}
    rate = {way: summary["examples_per_second"] for way, summary in found["ways"].items()}
    pairs = {name: pair for name, pair in RATIOS.items() if set(pair) <= set(rate)}
    found["times_as_fast"] = {name: rate[way] / rate[other] for name, (way, other) in pairs.items()}
    Path(out).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found["times_as_fast"], indent=1))


def summed(runs):
    """All turns of a way in one; the fastest one gives the rate."""
    kept = {key: value for key, value in runs[0].items() if key not in {"seconds", "load_seconds"}}
    seconds = {key: [run[key] for run in runs] for key in ("seconds", "load_seconds") if key in runs[0]}
    return {**kept, **seconds, "examples_per_second": kept["examples"] / min(seconds["seconds"])}


if __name__ == "__main__":
    one(*sys.argv[1:]) if len(sys.argv) == 6 else main(*sys.argv[1:])
