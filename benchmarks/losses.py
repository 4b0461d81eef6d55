# SPDX-License-Identifier: Apache-2.0
"""Twenty deployed sites, a third of whose updates is lost, late, sent twice or damaged on the way.

    python benchmarks/losses.py OUT.json [ROUNDS] [SEEDS]

The real server, remote transport, messages and sites, in one process; only the connection is made to do harm, to
updates drawn from the
seed. Beside each such run stands one in which the same clients are simply never reached, and one without any harm.
"""

import json
import sys
import tempfile
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

from fedlora.app.build.simulation import build, load
from fedlora.app.config.schema import make_config
from fedlora.app.run.progress import quiet_libraries
from fedlora.core.payload import to_bytes
from fedlora.core.seeds import numpy_stream
from fedlora.deploy.connection import Arrival
from fedlora.deploy.server import run_server
from fedlora.deploy.site import Site
from fedlora.federation.frame import decode_frame
from fedlora.federation.journal import read_checkpoint

SITES, SHARE = 20, 1 / 3
HARMS = ("lost", "late", "twice", "damaged")
METHODS = ("lora-a2", "fedsa")


class Post:
    """Sites of this process. Its clock jumps when nothing is under way any more."""

    def __init__(self, sites, seed, harms):
        self.sites, self.seed, self.harms = sites, seed, harms
        self.pool, self.under_way, self.late = ThreadPoolExecutor(2), {}, deque()
        self.time, self.ticket, self.done = 0.0, 0, Counter()

    def clock(self):
        return self.time

    def nodes(self):
        return list(self.sites)

    def send(self, node, data, patience):
        self.ticket += 1
        order = decode_frame(data).fields.get("order", {})
        harm = self.fate(node, order["round"]) if order.get("kind") == "train" else None
        if self.harms == "absent" and harm in ("lost", "late", "damaged"):
            return str(self.ticket)
        own = self.pool.submit(self.sites[node].answer, data)
        self.under_way[own] = (node, str(self.ticket), harm if self.harms == "harmed" else None)
        return str(self.ticket)

    def fate(self, node, round):
        draw = numpy_stream(self.seed, "harm", round, node)
        return str(draw.choice(HARMS)) if draw.random() < SHARE else None

    def collect(self, patience):
        if not self.under_way:
            self.time += patience
            return []
        done, _ = wait(self.under_way, return_when="FIRST_COMPLETED")
        arrived = []
        for own in done:
            node, ticket, harm = self.under_way.pop(own)
            arrived += self.harmed(Arrival(node, ticket, own.result()), harm)
        if self.late and self.late[0][0] < self.ticket - SITES:  # held back until other orders are out
            arrived.append(self.late.popleft()[1])
        return arrived

    def harmed(self, arrival, harm):
        self.done.update([harm] if harm else [])
        if harm == "late":
            self.late.append((self.ticket, arrival))
        if harm == "damaged":
            data = bytearray(arrival.data)
            data[len(data) // 2] ^= 0x10
            return [replace(arrival, data=bytes(data))]
        return {"lost": [], "late": [], "twice": [arrival, arrival]}.get(harm, [arrival])


def settings(method, seed, rounds):
    return make_config(
        {
            "run": {"name": method, "seed": seed, "rounds": rounds},
            "data": {"train_examples": 1000, "test_examples": 400},
            "split": {"clients": SITES, "alpha": 0.3},
            "clients": {"ranks": [1, 2, 4, 8]},
            "train": {"lr": 3e-3, "epochs": 2},
            "method": {"name": method},
            "evaluate": {"every": 0},
        }
    )


def run(config, resources, harms, folder):
    simulation = build(config, resources, workers=1)
    clients = simulation.federation.transport.roster()
    sites = {client.id: Site(simulation, client, folder / "sites" / client.id) for client in clients}
    connection, out = Post(sites, config.run.seed, harms), folder / "run"
    for _ in run_server(config, connection, out, clock=connection.clock):
        pass
    summary = json.loads((out / "summary.json").read_text())
    newest = sorted((out / "checkpoints").glob("*.payload"))[-1]
    state = to_bytes({key: own for key, own in read_checkpoint(newest).items() if key != "run"})
    told = [json.loads(line)["what"] for line in (out / "deliveries.jsonl").read_text().splitlines()]
    clients = [json.loads(line) for line in (out / "clients.jsonl").read_text().splitlines()]
    statuses = Counter("refused: damaged" if "damaged" in own["status"] else own["status"] for own in clients)
    return {
        "global": summary["global"]["accuracy"] if summary["global"] else None,
        "personal": summary["personal"]["mean"],
        "done": dict(connection.done),
        "statuses": dict(statuses),
        "dropped": sum(own.startswith("dropped") for own in told),
    }, state


def main(out, rounds=12, seeds=2):
    quiet_libraries()
    found = []
    for seed in range(int(seeds)):
        for method in METHODS:
            config = settings(method, seed, int(rounds))
            resources, states = load(config), {}
            own = {"method": method, "seed": seed}
            for harms in ("none", "harmed", "absent"):
                with tempfile.TemporaryDirectory() as folder:
                    own[harms], states[harms] = run(config, resources, harms, Path(folder))
                print(method, seed, harms, own[harms], flush=True)
            own["server state of harmed = of absent, bit for bit"] = states["harmed"] == states["absent"]
            found.append(own)
            told = {"sites": SITES, "rounds": int(rounds), "share": SHARE, "data": "generated", "runs": found}
            Path(out).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
