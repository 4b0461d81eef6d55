# SPDX-License-Identifier: Apache-2.0
"""A whole run before and after, by part: loading, training, evaluation, the rest.

    python benchmarks/whole_run.py benchmarks/whole_run.toml DATA BASE OUT.json

`fedlora run` of an earlier commit and of this one, in processes of their own and in turn, each with a cache folder of
its own: the first turn finds nothing there, as a first run does. Training and evaluation are those of the run's
timings.jsonl; the rest is loading, tokens, what lies below the adapted layers where that is computed once, checkpoints,
adapters and the page.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

from commits import ROOT, extract


def run(checkout, cache, settings, folder):
    """One run: its seconds by part, and the scores of its last round."""
    out = Path(folder) / "run"
    words = [word for key, value in settings for word in ("--set", f"{key}={value}")]
    env = {**os.environ, "PYTHONPATH": str(checkout / "src"), "XDG_CACHE_HOME": str(cache)}
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-P", "-c", "from fedlora.cli import main; main()", "run", *words, "--out", str(out)],
        env=env, cwd=folder, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    whole = time.perf_counter() - started
    lines = [json.loads(line) for line in (out / "timings.jsonl").read_text(encoding="utf-8").splitlines()]
    parts = {part: sum(line[part] for line in lines) for part in ("train", "evaluate")}
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    return {"whole": whole, **parts, "rest": whole - sum(parts.values()), "global": summary["global"]}


def main(config, data, base, out):
    work = tomllib.loads(Path(config).read_text(encoding="utf-8"))
    common = {
        **work["run"],
        "data.source": "files",
        "data.path": Path(data).absolute(),
        "model.base": Path(base).absolute(),
    }
    found = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start",
        "before": work["before"],
        "run": work["run"],
        "ways": {name: {"before": [], "after": []} for name in work["ways"]},
    }
    with tempfile.TemporaryDirectory() as place:
        before = extract(work["before"], Path(place) / "before")
        for _ in range(work["turns"]):
            for name, words in work["ways"].items():
                settings = [*common.items(), *(word.split("=", 1) for word in words)]
                for side, checkout in (("before", before), ("after", ROOT)):
                    with tempfile.TemporaryDirectory() as folder:
                        told = run(checkout, Path(place) / f"cache of {side}", settings, folder)
                    found["ways"][name][side].append(told)
                    print(name, side, told, flush=True)
    for sides in found["ways"].values():
        fastest = {side: min(each["whole"] for each in turns) for side, turns in sides.items()}
        sides["after_is_times_as_fast"] = fastest["before"] / fastest["after"]
    Path(out).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
