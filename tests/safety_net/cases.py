"""What is recorded: a list of cases; `case.py` says what a case is. Imports nothing of fedlora."""

from typing import Any

from case import RANKS, Case, make_case, mixed

METHODS = (
    "lora-a2", "fedsa", "replicate", "fedit", "zeropad", "ffa", "rolora", "flexlora", "hetlora", "flora", "fedex",
    "florist", "fedsvd", "fair", "full", "local", "central",
)  # fmt: skip
REMEMBERING = ("lora-a2", "fedsa", "ffa", "rolora", "flora", "fedex", "local")
"""Methods whose clients keep something from round to round."""
SLOTWISE = ("lora-a2", "fedsa", "replicate", "fedit", "zeropad", "ffa", "rolora", "full")
"""Methods with a `centre`."""
PERSISTENT = ("lora-a2", "fedsa", "replicate", "fedit", "zeropad", "ffa", "rolora", "hetlora", "full")
"""Methods that server optimisers go around."""
COMMON_START = tuple(method for method in METHODS if method not in ("flora", "florist", "local", "central"))
"""Methods that clipping goes around and means something for."""

ALL_AT_ONCE = [["lost reply", 2, 1], ["lost reply", 3, 3]]


PRUNES: dict[str, dict[str, Any]] = {
    "adapter": {"rank": 4},
    "method": {"keep": 0.5, "penalty": 0.5},
    "train": {"lr": 1e-3, "epochs": 2},
}
"""Settings under which HetLoRA's ranks do fall."""
PRUNES_SGD: dict[str, dict[str, Any]] = {
    "method": {"keep": 0.5, "penalty": 0.2},
    "train": {"lr": 0.05, "optimizer": "sgd"},
}


def _methods() -> list[Case]:
    found = []
    for method in METHODS:
        found.append(make_case(f"method/{method}", method))
        found.append(make_case(f"absence/{method}", method, config=mixed(method, clients={"per_round": 3})))
        found.append(make_case(f"lost-reply/{method}", method, config=mixed(method), events=[["lost reply", 2, 0]]))
        for head in ("frozen", "private"):
            sections = mixed(method, clients={"per_round": 4}, adapter={"head": head})
            found.append(make_case(f"head-{head}/{method}", method, config=sections, events=ALL_AT_ONCE))
        sections = mixed(method, run={"wire": "bfloat16"}, clients={"per_round": 4})
        found.append(make_case(f"wire-bfloat16/{method}", method, config=sections, events=[["lost reply", 2, 1]]))
    for method in REMEMBERING:
        lost = [["lost memory", 1, 1], ["lost memory", 2, 2]]
        found.append(make_case(f"lost-memory/{method}", method, config=mixed(method), events=lost))
    return found


def _options() -> list[Case]:
    """Fields of methods."""
    ranks = {"clients": {"ranks": RANKS}}
    lost = [["lost reply", 2, 1]]
    validation = {"split": {"validation": 0.3}}
    promote = {**ranks, **validation, "method": {"promote": 0.4, "start_rank": 1}}
    found = [
        make_case("fedsa-shared-output/lora", "fedsa", config={**ranks, "method": {"shared": "output"}}, events=lost),
        make_case("replicate-promote/all", "replicate", config=promote),
        make_case(
            "replicate-promote/absence", "replicate", config={**promote, "clients": {"ranks": RANKS, "per_round": 3}}
        ),
        make_case("replicate-promote/lost-reply", "replicate", config=promote, events=[["lost reply", 1, 3]]),
        make_case("hetlora/prunes", "hetlora", config=PRUNES, events=lost),
        make_case("hetlora/prunes-mixed", "hetlora", config={**ranks, **PRUNES_SGD}, events=lost),
        make_case("florist/energy", "florist", config={**ranks, "method": {"energy": 0.5}}, events=lost),
        make_case("fair/ridge", "fair", config={"method": {"ridge": 1.0}}),
        make_case("flora/large-base", "flora", config={"model": {"base": "two layers"}}, events=lost),
        make_case("fedex/large-base", "fedex", config={"model": {"base": "two layers"}}, events=lost),
        make_case("ffa/owners", "ffa", config={**ranks, "method": {"denominator": "owners"}}, events=lost),
    ]
    large = {"adapter": {"rank": 8}}
    found.append(make_case("lora-a2/large-budget", "lora-a2", config=large, events=lost))
    choices: dict[str, dict[str, Any]] = {
        "magnitude": {"criterion": "magnitude"},
        "sensitivity": {"criterion": "sensitivity"},
        "contribution-per-byte": {"criterion": "contribution-per-byte"},
        "bytes": {"bytes_per_round": 700},
        "bytes-per-byte": {"bytes_per_round": 500, "criterion": "contribution-per-byte"},
        "owners": {"denominator": "owners"},
        "pool": {"pool_rank": 5, "probe_epochs": 2},
        "sensitivity-owners": {"criterion": "sensitivity", "denominator": "owners"},
    }
    for name, fields in choices.items():
        found.append(make_case(f"lora-a2/{name}", "lora-a2", config={**ranks, "method": fields}, events=lost))
    return found


def _kinds() -> list[Case]:
    """VeRA and full fine-tuning."""
    vera = {"kind": "vera", "scale": 2.0}
    found = []
    for method in ("fedit", "ffa", "fedsa", "local"):
        for head in ("shared", "private"):
            sections = {"adapter": {**vera, "head": head}, "clients": {"per_round": 4}, "train": {"lr": 2e-2}}
            found.append(make_case(f"vera-{head}/{method}", method, config=sections, events=ALL_AT_ONCE))
    sections = {"adapter": vera, "method": {"shared": "output"}}
    found.append(make_case("vera-shared/fedsa-output", "fedsa", config=sections, events=[["lost reply", 2, 1]]))
    found.append(make_case("dense/local", "local", config={"adapter": {"kind": "dense"}}))
    return found


def _wrappers() -> list[Case]:
    """Heads bypass wrappers in 7702f80 (D1): where they are shared, a mend changes bits; where frozen, never."""
    wrappers = {
        "fedprox": (["fedprox", {"mu": 0.5}], METHODS[:-1]),
        "clip": (["clip", {"norm": 0.05}], COMMON_START),
        "fedavgm": (["fedavgm", {"momentum": 0.8}], PERSISTENT),
        "fedadam": (["fedadam", {"lr": 5e-3}], PERSISTENT),
    }
    found = []
    for name, (wrapper, methods) in wrappers.items():
        for method in methods:
            frozen = mixed(method, adapter={"head": "frozen"})
            found.append(
                make_case(f"{name}/{method}", method, config=frozen, wrap=[wrapper], events=[["lost reply", 2, 1]])
            )
        found += [
            make_case(f"D1-{name}-shared-head/{method}", method, config=mixed(method), wrap=[wrapper])
            for method in ("fedit", "lora-a2", "replicate", "full")
        ]
        private = {"adapter": {"head": "private"}, "clients": {"ranks": RANKS, "per_round": 4}}
        found.append(make_case(f"{name}-private-head/lora-a2", "lora-a2", config=private, wrap=[wrapper]))
    pruning = {**PRUNES, "adapter": {"rank": 4, "head": "frozen"}}
    found.append(make_case("clip/hetlora-prunes", "hetlora", config=pruning, wrap=[["clip", {"norm": 0.1}]]))
    both = [wrappers["clip"][0], wrappers["fedavgm"][0]]
    frozen = {"adapter": {"head": "frozen"}}
    found.append(make_case("wrapped-twice/clip-fedavgm", "fedit", config=frozen, wrap=both))
    found.append(make_case("wrapped-twice/fedavgm-clip", "lora-a2", config=frozen, wrap=both[::-1]))
    three = [wrappers["fedprox"][0], wrappers["clip"][0], wrappers["fedadam"][0]]
    found.append(make_case("wrapped-twice/three", "replicate", config=mixed("replicate", **frozen), wrap=three))
    two = [wrappers["fedavgm"][0], wrappers["fedadam"][0]]
    found.append(make_case("wrapped-twice/two-optimizers", "fedit", config=frozen, wrap=two))
    vera = {"adapter": {"kind": "vera", "scale": 2.0, "head": "frozen"}, "train": {"lr": 2e-2}}
    found.append(make_case("wrapped-twice/vera", "fedit", config=vera, wrap=three))
    return found


def _centres() -> list[Case]:
    """Robust centres, with the same division as for wrappers."""
    found = []
    for centre in ("median", "trimmed"):
        fields = {"centre": centre, "trim": 0.25}
        for method in SLOTWISE:
            frozen = mixed(method, adapter={"head": "frozen"}, method=fields)
            found.append(make_case(f"{centre}/{method}", method, config=frozen, events=[["lost reply", 3, 1]]))
        found += [
            make_case(f"D1-{centre}-shared-head/{method}", method, config=mixed(method, method=fields))
            for method in ("fedit", "lora-a2", "fedsa", "full")
        ]
        private = {"adapter": {"head": "private"}, "clients": {"ranks": RANKS}, "method": fields}
        found.append(make_case(f"{centre}-private-head/replicate", "replicate", config=private))
    return found


def _training() -> list[Case]:
    """Trainers, optimisers, schedules."""
    found = []
    penalised = [["fedprox", {"mu": 0.5}]]
    for method in ("lora-a2", "fedit", "hetlora", "flora", "fedsa", "full"):
        found.append(make_case(f"plain-trainer/{method}", method, config=mixed(method), trainer="plain"))
        found.append(make_case(f"block/{method}", method, config=mixed(method, clients={"block": 4})))
    frozen = {"adapter": {"head": "frozen"}}
    found += [
        make_case("plain-trainer/fedprox", "fedit", config=frozen, trainer="plain", wrap=penalised),
        make_case("plain-trainer/vera", "fedit", config={"adapter": {"kind": "vera"}}, trainer="plain"),
        make_case("block/fedprox", "fedit", config={**frozen, "clients": {"block": 5}}, wrap=penalised),
        make_case("block/small-passes", "lora-a2", config={"clients": {"block": 5}, "train": {"tokens_a_pass": 150}}),
        make_case("block/vera", "fedit", config={"adapter": {"kind": "vera"}, "clients": {"block": 5}}),
        make_case("block/two-layers", "lora-a2", config={"clients": {"block": 5}, "model": {"base": "two layers"}}),
        make_case("workers/lora-a2", "lora-a2", config={"clients": {"block": 2}}, workers=3),
    ]
    settings: dict[str, dict[str, Any]] = {
        "dropout": {"dropout": 0.2},
        "sgd": {"optimizer": "sgd", "lr": 0.1},
        "sgd-weight-decay": {"optimizer": "sgd", "lr": 0.1, "weight_decay": 0.05},
        "linear-warmup": {"schedule": "linear", "warmup": 0.4},
        "cosine": {"schedule": "cosine"},
        "weight-decay": {"weight_decay": 0.1},
        "lr-b-ratio": {"lr_b_ratio": 3.0},
        "steps": {"steps": 3},
        "epochs": {"epochs": 2},
        "micro-batch": {"micro_batch": 3},
    }
    for name, keys in settings.items():
        for method in ("lora-a2", "fedit"):
            found.append(make_case(f"train-{name}/{method}", method, config={"train": keys}))
        if name in ("dropout", "sgd", "linear-warmup", "weight-decay", "micro-batch"):
            found.append(make_case(f"train-{name}/plain-trainer", "lora-a2", config={"train": keys}, trainer="plain"))
    return found


def _surroundings() -> list[Case]:
    """Data, splits, evaluation, the form of the adapter, run folders."""
    found = []
    variants: dict[str, dict[str, Any]] = {
        "permuted": {"split": {"permuted": True}},
        "permuted-private": {"split": {"permuted": True}, "adapter": {"head": "private"}},
        "validation": {"split": {"validation": 0.3}, "evaluate": {"part": "validation"}},
        "evaluate-seldom": {"evaluate": {"every": 2}},
        "evaluate-last": {"evaluate": {"every": 0}},
        "iid": {"split": {"kind": "iid"}},
        "pathological": {"split": {"kind": "pathological", "clients": 6}, "data": {"train_examples": 250}},
        "unbalanced": {"split": {"alpha": 0.1, "balanced": False, "clients": 12}},
        "unreachable": {"clients": {"dropout": 0.4}},
        "profile": {"clients": {"ranks": "normal"}},
        "seed": {"run": {"seed": 7}},
        "targets": {"adapter": {"targets": ["query", "value"]}},
        "rslora": {"adapter": {"scaling": "rslora", "alpha": 8.0}},
        "scale": {"adapter": {"scale": 1.5}},
        "layers": {"adapter": {"layers": [1]}, "model": {"base": "two layers"}},
        "bfloat16-base": {"model": {"dtype": "bfloat16"}},
        "short-texts": {"model": {"max_length": 6}},
    }
    for name, sections in variants.items():
        found.append(make_case(f"{name}/lora-a2", "lora-a2", config=sections))
        if name in ("permuted", "permuted-private", "validation", "unreachable", "unbalanced", "bfloat16-base"):
            found.append(make_case(f"{name}/fedsa", "fedsa", config=sections))
    for method in ("fedit", "lora-a2", "flora", "fedsa", "replicate", "local"):
        sections = {"adapter": {"rank": 3}, "run": {"rounds": 2}}
        found.append(make_case(f"start/{method}", method, config=sections, start="method/fedit"))
    for method in ("lora-a2", "fedsa", "flora", "full", "hetlora"):
        sections = mixed(method, clients={"per_round": 4})
        found.append(make_case(f"folder/{method}", method, config=sections, events=[["lost reply", 2, 1]], folder=1))
    wrap = [["fedprox", {"mu": 0.5}], ["fedadam", {"lr": 5e-3}]]
    frozen = {"adapter": {"head": "frozen"}}
    found.append(make_case("folder/fedadam", "fedit", config=frozen, wrap=wrap, folder=2))
    private = mixed("replicate", adapter={"head": "private"})
    found.append(make_case("folder/private-head", "replicate", config=private, folder=1))
    return found


def _defects() -> list[Case]:
    """What goes wrong, and what 7702f80 makes of it."""
    ranks = {"clients": {"ranks": RANKS}}
    large = {"clients": {"ranks": [4, 8, 8, 4, 8]}}
    found = [
        make_case("refused/not-finite", "lora-a2", config=ranks, events=[["not finite", 2, 1], ["not finite", 3, 2]])
    ]
    found.append(make_case("refused/norm", "fedit", config={"clients": {"norm_limit": 3.7}}))
    found.append(make_case("failure/client-error", "special:breaks"))
    found.append(make_case("D2-rank-override/halves", "special:halves", config=large))
    found.append(
        make_case("D2-rank-override/halves-lost-reply", "special:halves", config=large, events=[["lost reply", 2, 1]])
    )
    vera = {"adapter": {"kind": "vera", "scale": 2.0}}
    found.append(make_case("D-vera-start/fedit", "fedit", config=vera, start="vera-shared/fedit", ends="error"))
    for method in ("fedit", "lora-a2"):
        raised, diverged = [["trainer raises", 2, 1]], [["diverged", 2, 1]]
        found.append(make_case(f"D3-trainer-exception/{method}", method, events=raised, ends="error"))
        found.append(make_case(f"D3-diverged/{method}", method, events=diverged, ends="error"))
    return found


def _slow() -> list[Case]:
    """On the base that users get; recorded only where asked for by name."""
    methods = ("lora-a2", "fedit", "fedsa", "flora", "full")
    sections = {"model": {"base": "default"}, "adapter": {"rank": 8}}
    return [make_case(f"default-base/{method}", method, config=mixed(method, **sections)) for method in methods]


CASES: list[Case] = [
    *_methods(), *_options(), *_kinds(), *_wrappers(), *_centres(), *_training(), *_surroundings(), *_defects()
]  # fmt: skip
SLOW: list[Case] = _slow()
"""Left out where no pattern is given."""
