# SPDX-License-Identifier: Apache-2.0
"""What travels, counted: one layer of RoBERTa-base at rank 8, ten clients that all take part.

    python benchmarks/traffic.py OUT.json

Six maps (four 768 x 768, one 768 to 3072, one 3072 to 768), float32, no head. Of each method the bytes of the
encoded payloads of one client, up and down: at first contact (round 1) and steady (the mean of rounds 3 and
4, so that a method that alternates is counted over both sides). Trained by the stand-in problem; at equal
ranks, because that is what all methods take.
"""

import json
import sys
from pathlib import Path

from fedlora.federation.pipeline import Pipeline
from fedlora.laws.world import World, play
from fedlora.methods import BUILT_IN

SHAPES = ((768, 768),) * 4 + ((3072, 768), (768, 3072))
CLIENTS, RANK = 10, 8


def counted(method):
    kind = "lora" if "lora" in method.facts.kinds else "dense"
    ranks, examples = (RANK,) * CLIENTS, (5,) * CLIENTS
    nobody = frozenset()
    run = play(Pipeline(method), World(SHAPES, ranks, examples, 4, nobody, nobody, 0.02, "frozen", "float32", 0, kind))
    rounds = [[own.traffic for own in record.clients] for record in run.records]

    def mean(numbers):
        return {
            way: round(sum(getattr(t, way) for n in numbers for t in rounds[n]) / len(numbers) / CLIENTS)
            for way in ("up", "down")
        }

    return {"first": mean([0]), "steady": mean([2, 3])}


def main(out):
    methods = {}
    for name, kind in BUILT_IN.items():
        if not kind().facts.centralized:
            methods[name] = counted(kind())
            print(name, methods[name], flush=True)
    told = {"shapes": SHAPES, "rank": RANK, "clients": CLIENTS, "bytes of one client and round": methods}
    Path(out).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
