"""A deployment on one machine: three sites behind Flower, over TLS, each with its own data and rank.

python examples/deploy_demo.py [FOLDER] [--task generate [--metrics choice rouge_l]]

Makes an authority, a certificate and keys, signs the app, starts a SuperLink behind a proxy, three SuperNodes and three
sites, runs LoRA-A2 and then FedSA-LoRA, and stops everything that it started, also on Ctrl-C. The data are generated:
labelled texts for a generated encoder, or with --task generate facts of restaurants and sentences about them, which the
small decoder of studies/bases learns to write; --metrics has its answers scored too (see evaluate.metrics).
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import tomli_w
from loopback.processes import Loopback, free_port

from fedlora.deploy.sockets import new_key
from fedlora.training.generated.encoder import generated_base
from fedlora.training.generated.requests import generated_dataset

RANKS = {"ash": 1, "birch": 2, "cedar": 4}
METHODS = ("lora-a2", "fedsa")
DECODER = Path(__file__).parents[1] / "studies" / "bases" / "small-llama-novels"

KINDS = ("pub", "restaurant", "coffee shop")

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Task:
    """What the sites train for."""

    train: Sequence[Rows]
    """Of each site."""
    test: Sequence[Rows]
    shared: Mapping[str, Any]
    """Sections of the shared config."""


def labelled_texts() -> Task:
    """Texts whose labels are spread over the sites unevenly, for the generated encoder."""
    dataset = generated_dataset(900, 240)

    def rows(part: Any, place: int) -> Rows:
        mine = [i for i, label in enumerate(part.labels) if label % 3 == place or i % 6 == place]
        return [{"text": part.texts[i], "label": dataset.labels[part.labels[i]]} for i in mine]

    sites = range(len(RANKS))
    return Task(
        train=[rows(dataset.train, place) for place in sites],
        test=[rows(dataset.test, place) for place in sites],
        shared={"data": {"labels": list(dataset.labels)}, "train": {"lr": 3e-3, "epochs": 2}},
    )


def facts_and_sentences() -> Task:
    """Facts of places to eat with a sentence about each, a kind of place a site, for the small decoder."""
    names = ("Blue Spice", "The Mill", "Green Man", "Old Bridge", "Wild Rose", "The Crown", "Sea View", "Red Lion")
    areas, foods = ("riverside", "city centre"), ("French", "Indian", "English", "Italian", "Chinese")

    def row(kind: str, name: str, area: str, food: str) -> Mapping[str, Any]:
        facts = f"name[{name}], eatType[{kind}], food[{food}], area[{area}]"
        sentences = {one: f"{name} is a {one} with {food} food, near the {area}." for one in KINDS}
        return {"prompt": facts, "completion": sentences[kind], "choices": list(sentences.values())}

    found = [[row(kind, *rest) for rest in product(names, areas, foods)] for kind in KINDS]
    shared = {
        "model": {"base": str(DECODER), "task": "generate", "max_length": 96},
        "train": {"lr": 5e-3, "batch_size": 8},
    }
    return Task([rows[::2] for rows in found], [rows[1::8] for rows in found], shared)


def write_files(folder, task):
    """Data, keys and configs of three sites; of every method a shared config."""
    for place, (name, rank) in enumerate(RANKS.items()):
        home = folder / "sites" / name
        (home / "data").mkdir(parents=True)
        for part, rows in (("train", task.train[place]), ("test", task.test[place])):
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (home / "data" / f"{part}.jsonl").write_text(text, encoding="utf-8")
        address = f"127.0.0.1:{free_port()}"
        for method in METHODS:
            section = {"name": name, "shared": f"../../{method}.toml", "rank": rank, "address": address}
            tree = {"site": section, "data": {"path": "data"}}
            (home / f"{method}.toml").write_text(tomli_w.dumps(tree), encoding="utf-8")
        new_key(home / "private" / "site.key")
        yield name, address, home / "private" / "site.key"
    test = [row for rows in task.test for row in rows]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in test), encoding="utf-8")
    for method in METHODS:
        shared = {
            "run": {"name": method, "rounds": 4},
            "adapter": {"rank": 4},
            "method": {"name": method},
            "deploy": {"sites": 3, "deadline": 120.0, "quorum": 2, "test": "test.jsonl"},
            **task.shared,
        }
        (folder / f"{method}.toml").write_text(tomli_w.dumps(shared), encoding="utf-8")


def asked():
    """The folder, the task and the metrics of answers of the command line."""
    parser = argparse.ArgumentParser(description="Three sites behind Flower on this machine.")
    parser.add_argument("folder", nargs="?", default=time.strftime("runs/deploy-demo-%Y%m%d-%H%M%S"))
    parser.add_argument("--task", choices=["classify", "generate"], default="classify")
    parser.add_argument("--metrics", nargs="+", default=[], help="with --task generate: evaluate.metrics")
    found = parser.parse_args()
    if found.task == "classify" and found.metrics:
        sys.exit("fedlora: --metrics score answers: add --task generate.")
    if found.task == "generate" and not DECODER.is_dir():
        sys.exit(f"fedlora: {DECODER} is not there: --task generate needs a checkout of the repository.")
    return Path(found.folder).absolute(), found.task, found.metrics


def stop(*_):
    """A polite kill ends as Ctrl-C does."""
    raise KeyboardInterrupt


def main():
    """Run the demo."""
    signal.signal(signal.SIGTERM, stop)
    folder, task, metrics = asked()
    if task == "classify":
        print("the generated base (made once)", flush=True)
        generated_base()
    made = labelled_texts() if task == "classify" else facts_and_sentences()
    if metrics:
        made = replace(made, shared={**made.shared, "evaluate": {"metrics": metrics}})
    with Loopback(folder) as own:
        sites = list(write_files(folder, made))
        own.superlink()
        print(f"SuperLink at {own.control}, for this machine's operator only", flush=True)
        print(f"proxy at {own.address}, over TLS, for registered nodes only", flush=True)
        for name, address, key in sites:
            own.supernode(name, address, key, own.register(name))
            print(f"SuperNode of {name}: forwards to 127.0.0.1", flush=True)
        for method in METHODS:
            for name, _, _ in sites:
                own.site(name, folder / "sites" / name / f"{method}.toml")
                print(own.log(f"site-{name}").strip().splitlines()[-1], flush=True)
            run = own.run({"config": str(folder / f"{method}.toml"), "out": str(folder / method)})
            try:
                for line in run.stdout:
                    said = line.split(" ", 2)[-1]  # after date and time
                    if said.startswith(("round", "fedlora:", "done:", "site ", method)):
                        print(said.rstrip(), flush=True)
            finally:
                run.terminate()
                run.wait()
            if not (folder / method / "summary.json").is_file():
                sys.exit(f"fedlora: the run did not finish: see {folder / 'logs'}")
            for name, _, _ in sites:
                own.stop(f"site-{name}")
                (written,) = (folder / "sites" / name / "private").glob(f"{method}-*/adapter")
                print(f"site {name} keeps its own adapter: {written.relative_to(folder)}", flush=True)
            print(f"the page: {folder / method / 'report.html'}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("fedlora: stopped, with everything that was started")
