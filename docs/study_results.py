"""The pages of the studies that were run, from the results committed under `studies/results`."""

import json
from pathlib import Path

from blocks import block
from fedlora.report.study_table import study_markdown

RESULTS = Path(__file__).parents[1] / "studies" / "results"


def pages():
    """Path -> page, of every study with results."""
    return {f"docs/studies/{folder.name}.md": page(folder) for folder in folders()}


def folders():
    """Of every study that was run."""
    return sorted(path.parent for path in RESULTS.glob("*/results.json"))


def read(path):
    """A file of JSON."""
    return json.loads(path.read_text(encoding="utf-8"))


def page(folder):
    """One study: what was run, its tables, and what else is told of it."""
    results, times = read(folder / "results.json"), read(folder / "timings.json")
    about = results["study"]
    parts = [f"# Study: {about['name']}", "", about["description"], ""]
    told = [ran(results, times), "", study_markdown(results).strip()]
    if (folder / "answers.json").is_file():
        told += ["", *answers(read(folder / "answers.json"))]
    if (folder / "slots.json").is_file():
        told += ["", *slots(read(folder / "slots.json"))]
    source = f"Made from `studies/results/{folder.name}`. How to read it: [studies](../studies.md)."
    return "\n".join([*parts, block("results", "\n".join(told)), "", source, ""])


def ran(results, times):
    """What was run, and for how long."""
    about = results["study"]
    hours = sum(cell["train"] + cell["evaluate"] for cell in times) / 3600
    tuning = sum(cell["part"] == "tuning" for cell in times)
    draws = f"{len(about['draws'])} draw{'s' if len(about['draws']) > 1 else ''} of the clients"
    base = results["environments"][0]["base"]
    return (
        f"{draws}, base {base}; {tuning} cells to choose rates from and {len(times) - tuning} reported ones: "
        f"{hours:.1f} hours of one core, other work beside it."
    )


def answers(told):
    """Ten answers as they are."""
    lines = ["### Answers to the first ten test examples, as they are", ""]
    for entry in told:
        lines += [f"`{entry['prompt'].strip()}`", ""]
        written = {"a right answer": entry["right"], **entry["generated"]}
        lines += [f"- *{who}*: {plain(text)}" for who, text in written.items()]
        lines.append("")
    return lines


def plain(text):
    """What a model wrote, as Markdown that shows it and nothing else."""
    return "".join(f"\\{sign}" if sign in "\\`*_[]<>#|" else sign for sign in " ".join(text.split())) or "(nothing)"


def slots(told):
    """Which slots LoRA-A2's clients chose."""
    names = {"input": "A (the input side)", "output": "B (the output side)"}
    lines = [
        "### LoRA-A2's slots by family",
        "",
        "The overlap of two clients' choices is the Jaccard similarity of their chosen slots, in the side's last round.",
        "",
        "| side | within a kind | across kinds | difference | p, permutations of kinds | slots a client by map |",
        "|---|---|---|---|---|---|",
    ]
    for side, each in told.items():
        most = ", ".join(f"{name} {count:.0f}" for name, count in each["slots_a_client_by_map"].items())
        lines.append(
            f"| {names[side]} | {each['within']:.3f} | {each['across']:.3f} | {each['difference']:+.3f} | {each['p']:.2g} "
            f"| {most} |"
        )
    side, each = next(iter(told.items()))
    nearest = sorted(each["overlap"], key=lambda pair: -pair[2])[:5]
    pairs = ", ".join(f"{one} and {other} ({value:.2f})" for one, other, value in nearest)
    alike = "more alike" if each["p"] < 0.05 else "no more alike"
    return [*lines, "", f"Families of one kind choose {alike} than others in {names[side]}. The most alike: {pairs}."]
