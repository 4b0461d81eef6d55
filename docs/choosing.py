"""What works with what, and which method for whom: tables from the methods' facts and from measured bytes."""

import sys
from pathlib import Path
from typing import get_args, get_type_hints

from fedlora.core.adapter import AdapterSpec, HeadMode
from fedlora.core.kinds import Kind
from fedlora.core.rounds import Client
from fedlora.errors import MethodError
from fedlora.methods import BUILT_IN
from fedlora.report.tables import size
from fedlora.training.settings import ModelSettings
from results import measured

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "training"))
from tiny_models import DECODERS, ENCODERS  # the architectures that the tests train

TASKS = {"classify": "classification", "generate": "language modelling"}
ARCHITECTURES = {
    "bert": "BERT", "roberta": "RoBERTa", "distilbert": "DistilBERT", "albert": "ALBERT", "electra": "ELECTRA",
    "modernbert": "ModernBERT", "gpt2": "GPT-2", "llama": "LLaMA", "qwen2": "Qwen2", "mistral": "Mistral",
}  # fmt: skip
SEES = {
    "slot sums": "each upload; sums of A and of B would be enough",
    "product sums": "each upload; sums of B A would be enough",
    "slot and product sums": "each upload; sums of A, of B and of B A would be enough",
    "individual": "each upload, and needs it",
}


def takes(method, kind, ranks=(2, 2)):
    """Whether a method takes a federation of two clients with this kind of adapter and these ranks."""
    spec = AdapterSpec({"map": (6, 4)}, max(ranks), 1.0, kind)
    try:
        method.check_federation(spec, [Client(f"c{number}", 1, rank, None) for number, rank in enumerate(ranks)])
    except MethodError:
        return False
    return True


def kinds_of(method):
    """The adapter kinds that a method takes, in the config's order."""
    return tuple(kind for kind in get_args(Kind) if takes(method, kind))


def heads_of(method):
    """The settings of `adapter.head`, and what a method makes of them where that is something else."""
    modes = {
        head: method.facts.head_mode(AdapterSpec({"map": (6, 4)}, 2, 1.0, head=head)) for head in get_args(HeadMode)
    }
    return tuple(head if mode == head else f"{head} (is {mode})" for head, mode in modes.items())


def support_table():
    """Method x task x model x adapter kind x head, methods with equal support in one row."""
    tasks = ", ".join(TASKS[task] for task in get_args(get_type_hints(ModelSettings)["task"]) or ("classify",))
    groups = {}
    for name, kind in BUILT_IN.items():
        method = kind()
        key = (kinds_of(method), heads_of(method), not method.facts.centralized)
        groups.setdefault(key, []).append(f"`{name}`")
    models = [", ".join(ARCHITECTURES[name] for name in names) for names in (ENCODERS, DECODERS)]
    lines = ["| methods | adapter | head | across real sites |", "|---|---|---|---|"]
    for (kinds, heads, sites), names in groups.items():
        lines.append(f"| {', '.join(names)} | {', '.join(kinds)} | {', '.join(heads)} | {'yes' if sites else 'no'} |")
    lines += [
        "",
        f"Task, for every method: {tasks}. Models, for every method: encoders ({models[0]}) and decoders "
        f"({models[1]}): classification by all, with the classification head of transformers, language modelling by the "
        "decoders.",
    ]
    return "\n".join(lines)


def choice_table(link=""):
    """Facts of each method that need no study, and its bytes."""
    sent = measured("traffic")["bytes of one client and round"]
    lines = [
        "| method | ranks may differ | global model | aggregation exact | up | down | stays with the client | what the server sees |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, kind in BUILT_IN.items():
        method = kind()
        facts = method.facts
        bytes_sent = [size(sent[name]["steady"][way]) if name in sent else "-" for way in ("up", "down")]
        silent = not facts.trains or (name in sent and not sent[name]["steady"]["up"])
        sees = "every text" if facts.centralized else "nothing" if silent else SEES[facts.consumes]
        cells = [
            "yes" if facts.mixed_ranks else "no",
            "no" if facts.exact == "none" and not facts.centralized else "yes",
            {"none": "-", "before truncation": "before it is cut", "no": "no", "update": "yes"}[facts.exact],
            *bytes_sent,
            " and ".join({"input": "A", "output": "B"}[side] for side in sorted(facts.private_sides)) or "-",
            sees,
        ]
        if facts.centralized:
            cells[5] = "nothing"
        if not facts.trains:
            cells[2] = "-"
        lines.append(f"| [`{name}`]({link}methods/{name}.md) | {' | '.join(cells)} |")
    return "\n".join(lines)


def questions():
    """Which methods answer a need, from facts alone."""
    methods = {name: kind() for name, kind in BUILT_IN.items()}
    sends = {name: method.facts.trains and not method.facts.centralized for name, method in methods.items()}
    federated = {name: method for name, method in methods.items() if sends[name] and name != "local"}
    sent = {name: measured("traffic")["bytes of one client and round"][name]["steady"] for name in federated}
    lora = [name for name, method in federated.items() if "lora" in method.facts.kinds]
    ways = {way: sorted({sent[name][way] for name in lora})[0] for way in ("up", "down")}
    least = {way: [name for name in lora if sent[name][way] < 1.01 * lowest] for way, lowest in ways.items()}

    def those(holds):
        return ", ".join(f"`{name}`" for name, method in federated.items() if holds(method)) or "none"

    rows = {
        "clients of different ranks": those(lambda method: takes(method, "lora", (1, 2))),
        "one global model": those(lambda method: method.facts.exact != "none"),
        "a model of its own for each client, with a part that is never sent": those(lambda m: m.facts.private_sides),
        "a global change that is exactly the mean of the clients' changes": those(lambda m: m.facts.exact == "update"),
        "the fewest bytes up": ", ".join(f"`{name}`" for name in least["up"]),
        "the fewest bytes down": ", ".join(f"`{name}`" for name in least["down"]),
        "a server for which sums of uploads are enough": those(lambda m: m.facts.consumes != "individual"),
        "nothing sent at all": "`local`",
        "a bound from below, nothing trained": "`base`",
        "a bound from above, all data in one place": "`central`",
    }
    return "\n".join(
        ["| you need | methods |", "|---|---|", *(f"| {need} | {found} |" for need, found in rows.items())]
    )
