# SPDX-License-Identifier: Apache-2.0
"""A deployment on one machine: three sites behind Flower, over TLS, each with its own data and rank.

python examples/deploy_demo.py [FOLDER]

Makes an authority, a certificate and keys, signs the app, starts a SuperLink behind a proxy, three SuperNodes and three
sites, runs LoRA-A2 and then FedSA-LoRA, and stops everything that it started, also on Ctrl-C. The data are generated.
"""

import json
import signal
import sys
import time
from pathlib import Path

import tomli_w
from loopback.processes import Loopback, free_port

from fedlora.deploy.sockets import new_key
from fedlora.training.generated import generated_base, generated_dataset

RANKS = {"ash": 1, "birch": 2, "cedar": 4}
METHODS = ("lora-a2", "fedsa")


def write_files(folder):
    """Data, keys and configs of three sites; of every method a shared config."""
    dataset = generated_dataset(900, 240)
    for place, (name, rank) in enumerate(RANKS.items()):
        home = folder / "sites" / name
        (home / "data").mkdir(parents=True)
        for part in ("train", "test"):
            own = getattr(dataset, part)
            mine = [i for i, label in enumerate(own.labels) if label % 3 == place or i % 6 == place]  # skewed labels
            rows = [{"text": own.texts[i], "label": dataset.labels[own.labels[i]]} for i in mine]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (home / "data" / f"{part}.jsonl").write_text(text, encoding="utf-8")
        address = f"127.0.0.1:{free_port()}"
        for method in METHODS:
            section = {"name": name, "shared": f"../../{method}.toml", "rank": rank, "address": address}
            tree = {"site": section, "data": {"path": "data"}}
            (home / f"{method}.toml").write_text(tomli_w.dumps(tree), encoding="utf-8")
        new_key(home / "private" / "site.key")
        yield name, address, home / "private" / "site.key"
    named = zip(dataset.test.texts, dataset.test.labels, strict=True)
    test = [{"text": text, "label": dataset.labels[label]} for text, label in named]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in test), encoding="utf-8")
    for method in METHODS:
        shared = {
            "run": {"name": method, "rounds": 4},
            "data": {"labels": list(dataset.labels)},
            "adapter": {"rank": 4},
            "train": {"lr": 3e-3, "epochs": 2},
            "method": {"name": method},
            "deploy": {"sites": 3, "deadline": 120.0, "quorum": 2, "test": "test.jsonl"},
        }
        (folder / f"{method}.toml").write_text(tomli_w.dumps(shared), encoding="utf-8")


def stop(*_):
    """A polite kill ends as Ctrl-C does."""
    raise KeyboardInterrupt


def main():
    """Run the demo."""
    signal.signal(signal.SIGTERM, stop)
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else time.strftime("runs/deploy-demo-%Y%m%d-%H%M%S")).absolute()
    print("the generated base (made once)", flush=True)
    generated_base()
    with Loopback(folder) as own:
        sites = list(write_files(folder))
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
