# SPDX-License-Identifier: Apache-2.0
"""Local training as it is now beside local training as it was at a commit, in one run on one machine.

    python benchmarks/before_after.py COMMIT DATA BASE OUT.json [NAME...]

The names are those of trainers.toml; without any, all. Each way runs in a process of its own, before and after by
turns, so that a drift of the machine meets both: `workers` of either side (see trainers.py), which is what a run does
on a CPU, and the loop over stock PEFT, of this side, once. What counts is the ratio after / before.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from commits import ROOT, extract

WAYS = ("workers",)
TURNS = 2


def run(checkout, way, name, data, base):
    """The seconds of one way, in a process of its own, on the code of a checkout."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "told.json"
        env = {**os.environ, "PYTHONPATH": str(checkout / "src")}
        line = [sys.executable, str(checkout / "benchmarks" / "ways.py"), way, name, data, base, str(out)]
        subprocess.run(line, env=env, check=True, cwd=checkout)
        return json.loads(out.read_text(encoding="utf-8"))


def main(commit, data, base, out, *names):
    config = tomllib.loads((ROOT / "benchmarks" / "trainers.toml").read_text(encoding="utf-8"))
    found = {
        "before": commit,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start",
    }
    with tempfile.TemporaryDirectory() as folder:
        sides = {"before": extract(commit, Path(folder)), "after": ROOT}
        for name in names or config:
            rows = {}
            for way in WAYS:
                told = {side: [] for side in sides}
                for _ in range(TURNS):
                    for side, checkout in sides.items():
                        told[side].append(run(checkout, way, name, data, base))
                seconds = {side: min(each["seconds"] for each in runs) for side, runs in told.items()}
                rows[way] = {
                    **{f"{side}_seconds": [each["seconds"] for each in runs] for side, runs in told.items()},
                    **{f"{side}_loss": runs[0]["loss"] for side, runs in told.items()},
                    "examples": told["after"][0]["examples"],
                    "after_is_times_as_fast": seconds["before"] / seconds["after"],
                }
                print(name, way, rows[way], flush=True)
            found[name] = {**rows, "peft_seconds": run(ROOT, "peft", name, data, base)["seconds"]}
            Path(out).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
