"""What is recorded: a list of cases as plain data. Imports nothing of fedlora.

A case is a mapping:

    name     GROUP/WHAT; groups D1-, D2-, D3- are those whose bits a mend of that defect will change
    config   sections as in a config file of commit 7702f80, over `BASE`. `model.base` is one of BASES;
             `method.name` may be "special:NAME", a method that the adapter defines
    wrap     wrappers as [name, {field: value}], the first innermost
    trainer  "packed" or "plain"
    events   what goes wrong, by round and by place of the client in the sorted roster (see EVENTS)
    start    the name of a case whose exported adapter is gone on from
    folder   the round after which a run in a folder is left and resumed; without it there is no folder
    workers  threads
    ends     "finished", or "error" where the code as of 7702f80 ends with one
"""

import copy
from typing import Any

Case = dict[str, Any]

BASES = {
    "smallest": {"width": 16, "layers": 1, "steps": 20},
    "two layers": {"width": 32, "layers": 2, "steps": 40},
    "default": {},
}
"""Generated bases by the arguments of the function that makes them. `default` takes minutes to make once."""

EVENTS = {
    "lost reply": "the client trains and keeps its state, but its reply never arrives",
    "lost memory": "after the round the client's stored state is gone",
    "not finite": "the reply holds NaN in place of every number",
    "trainer raises": "the trainer raises an exception on this client's training",
    "diverged": "the trainer reports a loss that is not finite",
}

TEXTS = (
    "hello i want to open my savings account today",
    "please cancel my debit card",
    "how do i edit my postcode the app is slow thank you",
    "give access to my standing order",
)
"""Whose logits are recorded at the end of every case."""

BASE: dict[str, dict[str, Any]] = {
    "run": {"rounds": 3, "name": "net"},
    "data": {"source": "generated", "train_examples": 100, "test_examples": 50},
    "split": {"clients": 5, "alpha": 1.0},
    "model": {"base": "smallest", "max_length": 24},
    "adapter": {"rank": 2},
    "train": {"lr": 5e-3, "batch_size": 8},
}

METHODS = (
    "lora-a2", "fedsa", "replicate", "fedit", "zeropad", "ffa", "rolora", "flexlora", "hetlora", "flora", "fedex",
    "florist", "fedsvd", "fair", "full", "local", "central",
)  # fmt: skip
MIXED = ("lora-a2", "fedsa", "replicate", "zeropad", "ffa", "flexlora", "hetlora", "flora", "florist", "local")
"""Methods whose clients may have different ranks."""
REMEMBERING = ("lora-a2", "fedsa", "ffa", "rolora", "flora", "fedex", "local")
"""Methods whose clients keep something from round to round."""
SLOTWISE = ("lora-a2", "fedsa", "replicate", "fedit", "zeropad", "ffa", "rolora", "full")
"""Methods with a `centre`."""
PERSISTENT = ("lora-a2", "fedsa", "replicate", "fedit", "zeropad", "ffa", "rolora", "hetlora", "full")
"""Methods that server optimisers go around."""
COMMON_START = tuple(method for method in METHODS if method not in ("flora", "florist", "local", "central"))
"""Methods that clipping goes around and means something for."""

RANKS = [1, 3, 2, 4, 2]
ALL_AT_ONCE = [["lost reply", 2, 1], ["lost reply", 3, 3]]


def _case(name: str, method: str, /, **others: Any) -> Case:
    config = copy.deepcopy(BASE)
    for section, keys in others.pop("config", {}).items():
        config[section] = {**config.get(section, {}), **keys}
    config["method"] = {"name": method, **config.get("method", {})}
    case = {"name": name, "config": config, "wrap": [], "trainer": "packed", "events": [], "ends": "finished"}
    return {**case, **others}


def _mixed(method: str, /, **sections: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Config sections with mixed ranks where the method takes them."""
    clients = {"ranks": RANKS} if method in MIXED else {}
    return {**sections, "clients": {**clients, **sections.get("clients", {})}}


def _methods() -> list[Case]:
    found = []
    for method in METHODS:
        found.append(_case(f"method/{method}", method))
        found.append(_case(f"absence/{method}", method, config=_mixed(method, clients={"per_round": 3})))
        found.append(_case(f"lost-reply/{method}", method, config=_mixed(method), events=[["lost reply", 2, 0]]))
        for head in ("frozen", "private"):
            sections = _mixed(method, clients={"per_round": 4}, adapter={"head": head})
            found.append(_case(f"head-{head}/{method}", method, config=sections, events=ALL_AT_ONCE))
        sections = _mixed(method, run={"wire": "bfloat16"}, clients={"per_round": 4})
        found.append(_case(f"wire-bfloat16/{method}", method, config=sections, events=[["lost reply", 2, 1]]))
    for method in REMEMBERING:
        lost = [["lost memory", 1, 1], ["lost memory", 2, 2]]
        found.append(_case(f"lost-memory/{method}", method, config=_mixed(method), events=lost))
    return found


def _options() -> list[Case]:
    """Fields of methods."""
    mixed = {"clients": {"ranks": RANKS}}
    lost = [["lost reply", 2, 1]]
    validation = {"split": {"validation": 0.3}}
    promote = {**mixed, **validation, "method": {"promote": 0.4, "start_rank": 1}}
    found = [
        _case("fedsa-shared-output/lora", "fedsa", config={**mixed, "method": {"shared": "output"}}, events=lost),
        _case("replicate-promote/all", "replicate", config=promote),
        _case("replicate-promote/absence", "replicate", config={**promote, "clients": {"ranks": RANKS, "per_round": 3}}),
        _case("replicate-promote/lost-reply", "replicate", config=promote, events=[["lost reply", 1, 3]]),
        _case("hetlora/prunes", "hetlora", config={**mixed, "method": {"keep": 0.5, "penalty": 5.0}}, events=lost),
        _case("florist/energy", "florist", config={**mixed, "method": {"energy": 0.5}}, events=lost),
        _case("fair/ridge", "fair", config={"method": {"ridge": 1.0}}),
        _case("flora/large-base", "flora", config={"model": {"base": "two layers"}}, events=lost),
        _case("fedex/large-base", "fedex", config={"model": {"base": "two layers"}}, events=lost),
        _case("ffa/owners", "ffa", config={**mixed, "method": {"denominator": "owners"}}, events=lost),
    ]
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
        found.append(_case(f"lora-a2/{name}", "lora-a2", config={**mixed, "method": fields}, events=lost))
    return found


def _kinds() -> list[Case]:
    """VeRA and full fine-tuning."""
    vera = {"kind": "vera", "scale": 2.0}
    found = []
    for method in ("fedit", "ffa", "fedsa", "local"):
        for head in ("shared", "private"):
            sections = {"adapter": {**vera, "head": head}, "clients": {"per_round": 4}, "train": {"lr": 2e-2}}
            found.append(_case(f"vera-{head}/{method}", method, config=sections, events=ALL_AT_ONCE))
    sections = {"adapter": vera, "method": {"shared": "output"}}
    found.append(_case("vera-shared/fedsa-output", "fedsa", config=sections, events=[["lost reply", 2, 1]]))
    found.append(_case("dense/local", "local", config={"adapter": {"kind": "dense"}}))
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
            frozen = _mixed(method, adapter={"head": "frozen"})
            found.append(_case(f"{name}/{method}", method, config=frozen, wrap=[wrapper], events=[["lost reply", 2, 1]]))
        for method in ("fedit", "lora-a2", "replicate", "full"):
            found.append(_case(f"D1-{name}-shared-head/{method}", method, config=_mixed(method), wrap=[wrapper]))
        private = {"adapter": {"head": "private"}, "clients": {"ranks": RANKS, "per_round": 4}}
        found.append(_case(f"{name}-private-head/lora-a2", "lora-a2", config=private, wrap=[wrapper]))
    both = [wrappers["clip"][0], wrappers["fedavgm"][0]]
    frozen = {"adapter": {"head": "frozen"}}
    found.append(_case("wrapped-twice/clip-fedavgm", "fedit", config=frozen, wrap=both))
    found.append(_case("wrapped-twice/fedavgm-clip", "lora-a2", config=frozen, wrap=both[::-1]))
    three = [wrappers["fedprox"][0], wrappers["clip"][0], wrappers["fedadam"][0]]
    found.append(_case("wrapped-twice/three", "replicate", config=_mixed("replicate", **frozen), wrap=three))
    two = [wrappers["fedavgm"][0], wrappers["fedadam"][0]]
    found.append(_case("wrapped-twice/two-optimizers", "fedit", config=frozen, wrap=two))
    vera = {"adapter": {"kind": "vera", "scale": 2.0, "head": "frozen"}, "train": {"lr": 2e-2}}
    found.append(_case("wrapped-twice/vera", "fedit", config=vera, wrap=three))
    return found


def _centres() -> list[Case]:
    """Robust centres, with the same division as for wrappers."""
    found = []
    for centre in ("median", "trimmed"):
        fields = {"centre": centre, "trim": 0.25}
        for method in SLOTWISE:
            frozen = _mixed(method, adapter={"head": "frozen"}, method=fields)
            found.append(_case(f"{centre}/{method}", method, config=frozen, events=[["lost reply", 3, 1]]))
        for method in ("fedit", "lora-a2", "fedsa", "full"):
            found.append(_case(f"D1-{centre}-shared-head/{method}", method, config=_mixed(method, method=fields)))
        private = {"adapter": {"head": "private"}, "clients": {"ranks": RANKS}, "method": fields}
        found.append(_case(f"{centre}-private-head/replicate", "replicate", config=private))
    return found


def _training() -> list[Case]:
    """Trainers, optimisers, schedules."""
    found = []
    penalised = [["fedprox", {"mu": 0.5}]]
    for method in ("lora-a2", "fedit", "hetlora", "flora", "fedsa", "full"):
        found.append(_case(f"plain-trainer/{method}", method, config=_mixed(method), trainer="plain"))
        found.append(_case(f"block/{method}", method, config=_mixed(method, clients={"block": 4})))
    frozen = {"adapter": {"head": "frozen"}}
    found += [
        _case("plain-trainer/fedprox", "fedit", config=frozen, trainer="plain", wrap=penalised),
        _case("plain-trainer/vera", "fedit", config={"adapter": {"kind": "vera"}}, trainer="plain"),
        _case("block/fedprox", "fedit", config={**frozen, "clients": {"block": 5}}, wrap=penalised),
        _case("block/small-passes", "lora-a2", config={"clients": {"block": 5}, "train": {"tokens_a_pass": 150}}),
        _case("block/vera", "fedit", config={"adapter": {"kind": "vera"}, "clients": {"block": 5}}),
        _case("block/two-layers", "lora-a2", config={"clients": {"block": 5}, "model": {"base": "two layers"}}),
        _case("workers/lora-a2", "lora-a2", config={"clients": {"block": 2}}, workers=3),
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
            found.append(_case(f"train-{name}/{method}", method, config={"train": keys}))
        if name in ("dropout", "sgd", "linear-warmup", "weight-decay", "micro-batch"):
            found.append(_case(f"train-{name}/plain-trainer", "lora-a2", config={"train": keys}, trainer="plain"))
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
        "pathological": {"split": {"kind": "pathological", "clients": 6}},
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
        found.append(_case(f"{name}/lora-a2", "lora-a2", config=sections))
        if name in ("permuted", "permuted-private", "validation", "unreachable", "unbalanced", "bfloat16-base"):
            found.append(_case(f"{name}/fedsa", "fedsa", config=sections))
    for method in ("fedit", "lora-a2", "flora", "fedsa", "replicate", "local"):
        sections = {"adapter": {"rank": 3}, "run": {"rounds": 2}}
        found.append(_case(f"start/{method}", method, config=sections, start="method/fedit"))
    found.append(_case("start/vera", "fedit", config={"adapter": {"kind": "vera", "scale": 2.0}}, start="vera-shared/fedit"))
    for method in ("lora-a2", "fedsa", "flora", "full", "hetlora"):
        sections = _mixed(method, clients={"per_round": 4})
        found.append(_case(f"folder/{method}", method, config=sections, events=[["lost reply", 2, 1]], folder=1))
    wrap = [["fedprox", {"mu": 0.5}], ["fedadam", {"lr": 5e-3}]]
    frozen = {"adapter": {"head": "frozen"}}
    found.append(_case("folder/fedadam", "fedit", config=frozen, wrap=wrap, folder=2))
    private = _mixed("replicate", adapter={"head": "private"})
    found.append(_case("folder/private-head", "replicate", config=private, folder=1))
    return found


def _defects() -> list[Case]:
    """What goes wrong, and what 7702f80 makes of it."""
    mixed = {"clients": {"ranks": RANKS}}
    large = {"clients": {"ranks": [4, 8, 8, 4, 8]}}
    found = [_case("refused/not-finite", "lora-a2", config=mixed, events=[["not finite", 2, 1], ["not finite", 3, 2]])]
    found.append(_case("refused/norm", "fedit", config={"clients": {"norm_limit": 12.5}}))
    found.append(_case("failure/client-error", "special:breaks"))
    found.append(_case("D2-rank-override/halves", "special:halves", config=large))
    found.append(_case("D2-rank-override/halves-lost-reply", "special:halves", config=large, events=[["lost reply", 2, 1]]))
    for method in ("fedit", "lora-a2"):
        raised, diverged = [["trainer raises", 2, 1]], [["diverged", 2, 1]]
        found.append(_case(f"D3-trainer-exception/{method}", method, events=raised, ends="error"))
        found.append(_case(f"D3-diverged/{method}", method, events=diverged, ends="error"))
    return found


def _slow() -> list[Case]:
    """On the base that users get; recorded only where asked for by name."""
    methods = ("lora-a2", "fedit", "fedsa", "flora", "full")
    sections = {"model": {"base": "default"}, "adapter": {"rank": 8}}
    return [_case(f"default-base/{method}", method, config=_mixed(method, **sections)) for method in methods]


CASES: list[Case] = [
    *_methods(), *_options(), *_kinds(), *_wrappers(), *_centres(), *_training(), *_surroundings(), *_defects()
]  # fmt: skip
SLOW: list[Case] = _slow()
"""Left out where no pattern is given."""
