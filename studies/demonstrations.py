# SPDX-License-Identifier: Apache-2.0
"""What the tables of a language study do not show, from its cells: answers as they are, and who chose which slots.

python studies/demonstrations.py answers CELLS RESULTS      the answers to the first ten test examples
python studies/demonstrations.py slots CELLS RESULTS DATA   LoRA-A2's choices, family by family, and by kind of task

CELLS is the folder of all cells of `fedlora study`, RESULTS the folder with the study's results.json, where
answers.json or slots.json is written; DATA the table of training examples (family, kind), gzip.
"""

import gzip
import json
import random
import sys
import tomllib
from collections import Counter
from itertools import combinations
from pathlib import Path
from statistics import fmean

EXAMPLES, PERMUTATIONS = 10, 10_000


def cells_of(home, results):
    """Variant -> folder of its reported cell on the first draw with the first seed."""
    wanted = {}
    for line in results["cells"]:
        if line["draw"] == results["study"]["draws"][0] and line["seed"] == results["study"]["seed"]:
            wanted[line["variant"], line["lr"], line["rounds"], line["bytes_up"]] = line
    found = {}
    for folder in sorted(home.iterdir()):
        if not (folder / "summary.json").is_file():
            continue
        config = tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        for (variant, lr, rounds, bytes_up), line in wanted.items():
            same = (config["split"]["seed"], config["run"]["seed"]) == (line["draw"], line["seed"])
            same = same and (config["train"]["lr"], summary["rounds"], summary["bytes_up"]) == (lr, rounds, bytes_up)
            if same and (summary["global"], summary["personal"]) == (line["global"], line["personal"]):
                found[variant] = folder
    return found


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def answers(home, results):
    """Of the first ten test examples, the prompt, a right answer, and what each method's model wrote."""
    told, cells = {}, cells_of(home, results)
    for variant, folder in [(name, cells[name]) for name in results["study"]["variants"] if name in cells]:
        lines = [line for line in lines_of(folder / "generations.jsonl") if line["part"] == "test"]
        shared = [line for line in lines if line["client"] is None]
        for line in shared or lines:
            entry = told.setdefault(line["example"], {"prompt": line["prompt"], "right": line["answers"][0]})
            entry.setdefault("generated", {}).setdefault(variant, line["generated"])
    return [told[example] for example in sorted(told)[:EXAMPLES]]


def slots(home, results, table):
    """The overlap (Jaccard) of every two families' choices, and whether families of one kind choose more alike."""
    folder = cells_of(home, results)["lora-a2"]
    with gzip.open(table, "rt", encoding="utf-8") as file:
        counted = Counter((row["family"], row["kind"]) for row in map(json.loads, file))
    kinds = {family: kind for (family, kind), _ in sorted(counted.items(), key=lambda item: item[1])}
    return {side: side_of(lines_of(folder / "clients.jsonl"), side, kinds) for side in ("input", "output")}


def side_of(lines, side, kinds):
    lines = [line for line in lines if line["notes"].get("side") == side and line["status"] == "accepted"]
    last = max(line["round"] for line in lines)
    chosen = {
        line["client"]: {(module, slot) for module, some in line["notes"]["slots"].items() for slot in some}
        for line in lines
        if line["round"] == last
    }
    names = sorted(chosen, key=lambda name: (kinds[name], name))
    overlap = {
        (one, other): len(chosen[one] & chosen[other]) / len(chosen[one] | chosen[other])
        for one, other in combinations(names, 2)
    }
    seen = difference(overlap, kinds)
    chance = random.Random(0)
    labels = [kinds[name] for name in names]
    larger = 0
    for _ in range(PERMUTATIONS):
        chance.shuffle(labels)
        larger += difference(overlap, dict(zip(names, labels, strict=True)))[2] >= seen[2]
    by_map = Counter(module.split(".")[-1] for some in chosen.values() for module, _ in some)
    return {
        "round": last,
        "families": names,
        "kinds": [kinds[name] for name in names],
        "overlap": [[one, other, round(value, 4)] for (one, other), value in overlap.items()],
        "within": seen[0],
        "across": seen[1],
        "difference": seen[2],
        "p": (larger + 1) / (PERMUTATIONS + 1),
        "permutations": PERMUTATIONS,
        "slots_a_client_by_map": {name: count / len(chosen) for name, count in by_map.most_common()},
        "top_by_family": {name: Counter(m.split(".")[-1] for m, _ in chosen[name]).most_common(3) for name in names},
    }


def difference(overlap, kinds):
    within = fmean(value for (one, other), value in overlap.items() if kinds[one] == kinds[other])
    across = fmean(value for (one, other), value in overlap.items() if kinds[one] != kinds[other])
    return within, across, within - across


def main(what, home, folder, *table):
    results = json.loads((Path(folder) / "results.json").read_text(encoding="utf-8"))
    made = answers(Path(home), results) if what == "answers" else slots(Path(home), results, Path(table[0]))
    target = Path(folder) / f"{what}.json"
    target.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"written: {target}")


if __name__ == "__main__":
    main(*sys.argv[1:])
