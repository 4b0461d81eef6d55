# SPDX-License-Identifier: Apache-2.0
"""All methods at two strengths of label skew: gather what `fedlora compare` left into one JSON file.

    fedlora compare benchmarks/study.toml --methods hetlora,flora,fedex,florist,fedsvd,fair --rates 5e-4,2e-3 \\
        --rate-rounds 4 --set data.path=DATA --set model.base=BASE --out out/0.1
    fedlora compare benchmarks/study.toml --methods full --rates 5e-5,2e-4 --rate-rounds 4 ... --out out/0.1-full
    fedlora compare benchmarks/study.toml --methods METHOD --set split.alpha=0.01 --set train.lr=RATE ... --out out/0.01
    python benchmarks/grid.py OUT.json 0.1=FOLDER... 0.01=FOLDER...

The runs of the study at rank 2 and Dir(0.1) belong to the grid and are read from its results. Rates were chosen at
Dir(0.1) on the validation part and used at Dir(0.01) too. Central training does not depend on the split. At equal
ranks replicate and zeropad are FedIT.

`at_common`: of every curve, the last score taken when no more had been sent up than by that method which, of
those that send anything, sent the least, give or take a hundredth: what names the tensors differs by a few bytes.
"""

import itertools
import json
import sys
from pathlib import Path

from study import gather

STUDY = Path(__file__).parent / "results" / "study.json"


def sent(own):
    return own["summary"]["bytes_up"]


def within(own, most):
    """The last score with at most so many bytes sent up."""
    sums = itertools.accumulate(line["bytes_up"] for line in own["curve"])
    reached = [(up, line) for up, line in zip(sums, own["curve"], strict=True) if up <= most and line["personal"]]
    if not reached:
        return None
    up, line = reached[-1]
    return {"round": line["round"], "bytes_up": up, "global": line["global"], "personal": line["personal"]}


def main(out, words):
    grid = {}
    for word in words:
        name, _, folder = word.partition("=")
        grid.setdefault(name, {}).update(gather(Path(folder)))
    study = json.loads(STUDY.read_text(encoding="utf-8"))["2"]
    grid["0.1"] = {**study, **grid["0.1"]}
    for name, runs in grid.items():
        runs.setdefault("central", study["central"])
        common = min(sent(own) for own in runs.values() if sent(own))
        for own in runs.values():
            own["at_common"] = within(own, 1.01 * common) if sent(own) else None
        grid[name] = {"common_bytes_up": common, "runs": dict(sorted(runs.items()))}
    Path(out).write_text(json.dumps(grid, indent=1) + "\n", encoding="utf-8")
    for name, own in grid.items():
        print(name, own["common_bytes_up"])
        for method, run in own["runs"].items():
            told = run["summary"]
            print(" ", method, run["lr"], told["global"] and told["global"]["accuracy"], told["personal"]["mean"])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
