# SPDX-License-Identifier: Apache-2.0
"""What the form of heterogeneity asks for, and what unequal budgets do: two small studies on the generated task.

    python benchmarks/heterogeneity.py concepts OUT.json
    python benchmarks/heterogeneity.py profiles OUT.json

concepts: FedSA (sharing A, sharing B, rsLoRA, VeRA) against FedIT and local, once where every client has
numbered the labels its own way (iid examples, so that concepts alone differ), once under label skew
(Dirichlet 0.1). With private heads a client's own numbering is its head's affair; with a shared head its adapter
has to undo it, and what is private of that decides.

profiles: HetLoRA, FlexLoRA and LoRA-A2 under the resource profiles uniform, heavy-tail and normal, 30 clients,
Dirichlet 0.5, shared head.

The text is generated and the base small: what holds here of the order of methods need not hold elsewhere.
"""

import json
import sys
import time
from pathlib import Path

from fedlora.app.build.simulation import build, load
from fedlora.app.config.schema import make_config
from fedlora.app.run.progress import quiet_libraries
from fedlora.app.run.run import Run
from fedlora.federation.record import round_line

PERMUTED = {"kind": "iid", "clients": 8, "permuted": True}
FORMS = {
    "permuted labels, private heads": (PERMUTED, "private"),
    "permuted labels, shared head": (PERMUTED, "shared"),
    "label skew, private heads": ({"kind": "dirichlet", "clients": 8, "alpha": 0.1}, "private"),
}
VARIANTS = {
    "fedsa, A shared": ({"name": "fedsa"}, {}),
    "fedsa, B shared": ({"name": "fedsa", "shared": "output"}, {}),
    "fedsa, rsLoRA": ({"name": "fedsa"}, {"scaling": "rslora"}),
    "fedsa, VeRA": ({"name": "fedsa"}, {"kind": "vera", "rank": 64}),
    "fedit": ({"name": "fedit"}, {}),
    "local": ({"name": "local"}, {}),
}
RATES = (2e-3, 1e-2)


def run(tree):
    config = make_config(tree)
    simulation = build(config, load(config))
    started = time.perf_counter()
    record = list(Run(simulation))[-1]
    lines = round_line(record)
    return {
        "global": lines["global"],
        "personal": lines["personal"],
        "seconds": round(time.perf_counter() - started, 1),
    }


def tuned(tree):
    """Twelve rounds at the rate that scores best on the validation part after six."""
    trials, part = {}, {"every": 0, "part": "validation"}
    for rate in RATES:
        own = {**tree, "run": {"rounds": 6}, "train": {"lr": rate}, "evaluate": part}
        trials[rate] = run(own)["personal"]["weighted_mean"]
    best = max(trials, key=trials.get)
    done = run({**tree, "run": {"rounds": 12}, "train": {"lr": best}, "evaluate": {"every": 0}})
    return {"lr": best, "trials": {str(rate): score for rate, score in trials.items()}, **done}


def data(examples):
    return {"source": "generated", "train_examples": examples, "test_examples": 600}


def concepts():
    """Of every variant the rate that scores best on the validation part, then its score on the test part."""
    for form, (split, head) in FORMS.items():
        for name, (method, adapter) in VARIANTS.items():
            tree = {
                "data": data(1600),
                "split": {**split, "validation": 0.1},
                "adapter": {"rank": 4, "alpha": 16.0, "head": head, **adapter},
                "method": method,
            }
            yield form, name, tuned(tree)


def profiles():
    """Each method at the better of two rates by its validation score after six of twelve rounds."""
    for profile in ("uniform", "heavy-tail", "normal"):
        for name in ("hetlora", "flexlora", "lora-a2"):
            tree = {
                "data": data(1800),
                "split": {"kind": "dirichlet", "clients": 30, "alpha": 0.5, "validation": 0.1},
                "adapter": {"scale": 4.0},
                "clients": {"ranks": profile},
                "method": {"name": name, **({"pool_rank": 32} if name == "lora-a2" else {})},
            }
            yield profile, name, tuned(tree)


def main(study, out):
    quiet_libraries()
    found = {}
    for group, name, own in {"concepts": concepts, "profiles": profiles}[study]():
        found.setdefault(group, {})[name] = own
        print(group, name, own["lr"], own["global"], own["personal"], flush=True)
        Path(out).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
