# SPDX-License-Identifier: Apache-2.0
"""Run `first_table.toml` for some methods and keep each one's summary and curve in one JSON file.

    python benchmarks/first_table.py DATA BASE OUT.json METHOD...

`zeropad` and `replicate` run at mixed ranks of mean 2, all others at rank 2. A method that OUT.json already
has is not run again.
"""

import json
import platform
import sys
import tempfile
from pathlib import Path

import torch

from fedlora.app.build.simulation import build
from fedlora.app.config.schema import read_config
from fedlora.app.run.progress import line_of, quiet_libraries
from fedlora.app.run.run import Run
from fedlora.federation.record import round_line

MIXED = "[1, 1, 1, 1, 1, 1, 2, 4, 4, 4]"


def run(method, data, base):
    words = [f"method.name={method}", f"data.path={data}", f"model.base={base}"]
    if method in ("zeropad", "replicate"):
        words.append(f"clients.ranks={MIXED}")
    simulation = build(read_config(Path(__file__).with_suffix(".toml"), words))
    curve, seconds = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        for record in Run(simulation, Path(folder) / "run"):
            print(method, line_of(record, simulation.config.run.rounds), flush=True)
            curve.append(round_line(record))
            seconds += sum(record.seconds.values())
        summary = json.loads((Path(folder) / "run" / "summary.json").read_text())
    return {"summary": summary, "curve": curve, "seconds": round(seconds, 1)}


def main(data, base, out, methods):
    quiet_libraries()
    path = Path(out)
    for method in methods:
        results = json.loads(path.read_text()) if path.exists() else {}
        if method in results:
            continue
        done = run(method, data, base)
        done["machine"] = f"{platform.machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}"
        results = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**results, method: done}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
