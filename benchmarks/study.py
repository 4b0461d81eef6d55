# SPDX-License-Identifier: Apache-2.0
"""Gather what `fedlora compare benchmarks/study.toml` left into one JSON file, and print its table.

    fedlora compare benchmarks/study.toml --methods lora-a2,fedsa,fedit,flexlora,ffa,rolora,local,central \\
        --rates 5e-4,2e-3 --rate-rounds 4 --set data.path=DATA --set model.base=BASE --out out/rank-2
    ... --set adapter.rank=1 --out out/rank-1
    fedlora compare benchmarks/study.toml --methods replicate,zeropad ... \\
        --set 'clients.ranks=[1, 1, 1, 1, 1, 1, 2, 4, 4, 4]' --out out/mixed
    python benchmarks/study.py OUT.json NAME=FOLDER...

Of every run: its summary, its learning rate, its curve; of every trial: its score on the validation part.
"""

import json
import sys
import tomllib
from pathlib import Path

from fedlora.report.tables import size


def read(folder):
    config = tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text(encoding="utf-8").splitlines()]
    curve = [
        {key: line[key] for key in ("round", "loss", "global", "personal", "bytes_up", "bytes_down")} for line in lines
    ]
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return {"lr": config["train"]["lr"], "summary": summary, "curve": curve}


def gather(folder):
    runs = {path.parent.parent.name: read(path.parent) for path in sorted(folder.glob("*/seed-*/summary.json"))}
    for path in sorted(folder.glob("rates/*/lr-*/summary.json")):
        own, name = read(path.parent), path.parent.parent.name
        score = own["summary"]["personal"]["weighted_mean"]
        if name in runs:
            runs[name].setdefault("trials", {})[str(own["lr"])] = score
    return runs


def main(out, folders):
    result = {}
    for word in folders:
        name, _, folder = word.partition("=")
        result.setdefault(name, {}).update(gather(Path(folder)))
    Path(out).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print("| ranks | method | rate | global | personal | worst tenth | up | down |")
    print("|---|---|---|---|---|---|---|---|")
    for name, runs in result.items():
        for method, own in runs.items():
            told = own["summary"]
            personal = told["personal"]
            cells = [
                name,
                f"`{method}`",
                f"{own['lr']:g}",
                f"{100 * told['global']['accuracy']:.1f}" if told["global"] else "-",
                f"{100 * personal['mean']:.1f}",
                f"{100 * personal['worst_tenth']:.1f}",
                size(told["bytes_up"]),
                size(told["bytes_down"]),
            ]
            print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
