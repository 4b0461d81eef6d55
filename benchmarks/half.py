# SPDX-License-Identifier: Apache-2.0
"""Local training with a base in bfloat16 beside float32, a commit before and stock PEFT, in one run on one machine.

    python benchmarks/half.py COMMIT DATA BASE OUT.json [NAME...]

The names are those of half.toml; without any, all. Each way runs in a process of its own, turn by turn, so that a
drift of the machine meets all: `workers` (see trainers.py) of the commit in float32, and of today's code in float32
and in bfloat16; the loop over stock PEFT in both types. Beside them the rate of the frozen maps' products in both
types, before and after. All start from the same adapter and head, which a base in bfloat16 rounds, and see the same
batches. Nothing is refused: `instructions` tells what the processor has, and without avx512_bf16 or amx_bf16 bfloat16
is slow.
"""

import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import tomllib
from pathlib import Path

from before_after import run
from commits import ROOT, extract

TURNS = 2
WAYS = {
    "before float32": ("before", "workers", "float32"),
    "today float32": ("today", "workers", "float32"),
    "today bfloat16": ("today", "workers", "bfloat16"),
    "peft float32": ("today", "peft", "float32"),
    "peft bfloat16": ("today", "peft", "bfloat16"),
}
"""Name -> whose code, the way of ways.py, and the type of the base."""


def instructions():
    """The processor's vector and matrix instructions, as /proc/cpuinfo has them."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="ascii", errors="replace").splitlines() if path.exists() else []
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return sorted(flag for flag in flags if flag.startswith(("avx", "amx", "fma", "f16c", "sve", "bf16", "asimd")))


def write_work(folder, config):
    """The works in both types where a checkout's ways.py looks for them."""
    text = ""
    for name, work in config.items():
        for dtype in ("float32", "bfloat16"):
            keys = {**work, "dtype": dtype}
            text += f'["{name} {dtype}"]\n' + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
    (folder / "benchmarks" / "trainers.toml").write_text(text, encoding="utf-8")


def write_data(data, folder, words):
    """The examples with every text repeated until it has so many words."""
    folder.mkdir()
    for part in ("train", "test"):
        with (folder / f"{part}.jsonl").open("w", encoding="utf-8") as out:
            for line in (Path(data) / f"{part}.jsonl").read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                times = -(-words // max(len(row["text"].split()), 1))
                out.write(json.dumps({**row, "text": " ".join([row["text"]] * times)}) + "\n")
    return str(folder)


def measure(sides, name, work, data, base):
    """All ways of one work."""

    def rates():
        return {t: run(sides["today"], "matrix", f"{name} {t}", data, base)["gflops"] for t in ("float32", "bfloat16")}

    first, told = rates(), {way: [] for way in WAYS}
    for turn in range(TURNS):
        for way, (side, kind, dtype) in WAYS.items():
            told[way].append(run(sides[side], kind, f"{name} {dtype}", data, base))
            print(name, turn, way, told[way][-1], flush=True)
    last = rates()
    fastest = {way: min(each["seconds"] for each in turns) for way, turns in told.items()}
    ways = {}
    for way, turns in told.items():
        rate = statistics.fmean(rate[WAYS[way][2]] for rate in (first, last))
        ways[way] = {
            "seconds": [each["seconds"] for each in turns],
            "examples": turns[0]["examples"],
            "tokens": turns[0]["tokens"],
            "loss": turns[0]["loss"],
            "loss_beside_before": turns[0]["loss"] / told["before float32"][0]["loss"] - 1.0,
            "examples_per_second": turns[0]["examples"] / fastest[way],
            "share_of_matrix_rate": turns[0]["flop"] / fastest[way] / 1e9 / rate,
            "times": {other: fastest[other] / fastest[way] for other in WAYS if other != way},
        }
    return {"work": work, "matrix_gflops": {"before": first, "after": last}, "ways": ways}


def main(commit, data, base, out, *names):
    config = tomllib.loads((ROOT / "benchmarks" / "half.toml").read_text(encoding="utf-8"))
    found = {
        "before": commit,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start",
        "instructions": instructions(),
    }
    with tempfile.TemporaryDirectory() as folder:
        sides = {side: Path(folder) / side for side in ("before", "today")}
        extract(commit, sides["before"])
        for part in ("src", "benchmarks"):
            shutil.copytree(ROOT / part, sides["today"] / part)
        for side in sides.values():
            write_work(side, config)
        for name in names or config:
            work = config[name]
            place = write_data(data, Path(folder) / name, work["words"])
            found[name] = measure(sides, name, work, place, base)
            Path(out).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
