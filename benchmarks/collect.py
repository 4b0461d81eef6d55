# SPDX-License-Identifier: Apache-2.0
"""Print the Markdown table of one or more result files of `first_table.py`.

python benchmarks/collect.py RESULTS.json...
"""

import json
import sys
from pathlib import Path

from fedlora.report.tables import size


def main(paths):
    results = {}
    for path in paths:
        results.update(json.loads(Path(path).read_text(encoding="utf-8")))
    print("| method | global | personal | worst tenth | up | of it head | down | adapter scalars up |")
    print("|---|---|---|---|---|---|---|---|")
    for name, own in results.items():
        told = own["summary"]
        accuracy = f"{100 * told['global']['accuracy']:.1f}" if told["global"] else "-"
        personal = told["personal"]
        cells = [
            name,
            accuracy,
            f"{100 * personal['mean']:.1f}",
            f"{100 * personal['worst_tenth']:.1f}",
            *(size(told[key]) for key in ("bytes_up", "head_bytes_up", "bytes_down")),
            f"{told['parameters_up']:,}",
        ]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main(sys.argv[1:])
