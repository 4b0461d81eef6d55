"""What a case is, as plain data. Imports nothing of fedlora.

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
    "data": {"source": "generated", "train_examples": 60, "test_examples": 25},
    "split": {"clients": 5, "alpha": 1.0},
    "model": {"base": "smallest", "max_length": 24},
    "adapter": {"rank": 2},
    "train": {"lr": 5e-3, "batch_size": 8},
}

MIXED = ("lora-a2", "fedsa", "replicate", "zeropad", "ffa", "flexlora", "hetlora", "flora", "florist", "local")
"""Methods whose clients may have different ranks."""
RANKS = [1, 3, 2, 4, 2]


def make_case(name: str, method: str, /, **others: Any) -> Case:
    """A case with defaults where nothing is said."""
    config = copy.deepcopy(BASE)
    for section, keys in others.pop("config", {}).items():
        config[section] = {**config.get(section, {}), **keys}
    config["method"] = {"name": method, **config.get("method", {})}
    case = {"name": name, "config": config, "wrap": [], "trainer": "packed", "events": [], "ends": "finished"}
    return {**case, **others}


def mixed(method: str, /, **sections: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Config sections with mixed ranks where the method takes them."""
    clients = {"ranks": RANKS} if method in MIXED else {}
    return {**sections, "clients": {**clients, **sections.get("clients", {})}}
