"""A federation of three sites with data of their own, and the same federation as a simulation."""

import json
import os
import select
import shutil
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import tomli_w
import torch
from tests import warm
from tests.deploy.direct import DirectConnection

from fedlora.app.build.simulation import build, load
from fedlora.app.config.schema import make_config
from fedlora.app.run.progress import quiet_libraries
from fedlora.app.run.run import Run
from fedlora.core.payload import to_bytes
from fedlora.deploy.config import build_site, read_site, site_client
from fedlora.deploy.server import run_server
from fedlora.deploy.site import Site
from fedlora.deploy.sockets import new_key, open_socket, read_key, serve_bytes
from fedlora.methods import BUILT_IN
from fedlora.training.generated.requests import generated_dataset

RANKS = {"ash": 1, "birch": 2, "cedar": 4}


@pytest.fixture
def tmp_path(tmp_path_factory):
    """A folder with a short name: a socket's path has 107 characters at most."""
    return tmp_path_factory.mktemp("t")


@pytest.fixture(scope="session")
def ground(tmp_path_factory, smallest_base):
    """A folder with `base/` and `all/`: examples with a column that names the owner."""
    folder = tmp_path_factory.mktemp("ground")
    shutil.copytree(smallest_base, folder / "base")
    dataset = generated_dataset(120, 60)
    for part in ("train", "test"):
        own = getattr(dataset, part)
        named = zip(own.texts, own.labels, strict=True)
        rows = [
            {"text": text, "label": dataset.labels[label], "site": list(RANKS)[number % 7 % 3]}
            for number, (text, label) in enumerate(named)
        ]
        write_rows(folder / "all" / f"{part}.jsonl", rows)
    return folder


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@dataclass(frozen=True)
class World:
    """Where the files of one federation are."""

    folder: Path
    simulated: dict
    shared: dict

    @property
    def config(self):
        return make_config(self.shared)

    def site(self, name):
        return self.folder / "sites" / name / "site.toml"

    def simulate(self, out):
        """The run on one machine."""
        run = Run(build(make_config(self.simulated), load(make_config(self.simulated)), workers=1), out)
        list(run)
        return run

    def deploy(self, out, resume=False, **patience):
        """The run across sites that are already there; returns the last record."""
        shared = {**self.shared, "deploy": {**self.shared["deploy"], **patience}}
        connection = DirectConnection(
            {own.site.address: read_key(Path(own.site.key)) for own in map(read_site, self.sites())}
        )
        return [record for _, record in run_server(make_config(shared), connection, out, resume) if record]

    def sites(self):
        return [self.site(name) for name in RANKS]


@pytest.fixture
def world(ground, tmp_path):
    """Writes the files of a federation."""

    def write(method, rounds=2, folder=tmp_path, **sections):
        ranks = RANKS if BUILT_IN[method]().facts.mixed_ranks else dict.fromkeys(RANKS, 4)
        dataset = generated_dataset(1, 1)
        common = {
            "run": {"rounds": rounds, "name": "grove", **sections.pop("run", {})},
            "model": {"base": str(ground / "base"), "max_length": 24},
            "adapter": {"rank": 4, **sections.pop("adapter", {})},
            "train": {"lr": 5e-3, **sections.pop("train", {})},
            "method": {"name": method, **sections.pop("method", {})},
        }
        data = {"labels": list(dataset.labels)}
        validation = {"validation": 0.2} if BUILT_IN[method]().facts.needs_validation else {}
        simulated = {
            **common,
            "data": {"source": "files", "path": str(ground / "all"), **data},
            "split": {"kind": "natural", "column": "site", **validation},
            "clients": {"ranks": list(ranks.values())},
        }
        deploy = {"sites": 3, "wait": 60.0, "deadline": 60.0, **sections.pop("deploy", {})}
        shared = {**common, "data": data, "deploy": deploy, "split": validation}
        made = World(folder, simulated, shared)
        (folder / "federation.toml").write_text(tomli_w.dumps(shared))
        own = load(make_config(simulated))
        both = [own.split.clients[name].train.tolist() + own.split.clients[name].validation.tolist() for name in RANKS]
        for name, train in zip(RANKS, both, strict=True):
            home = folder / "sites" / name
            for part, texts, mine in (
                ("train", own.dataset.train, sorted(train)),
                ("test", own.dataset.test, own.split.clients[name].test.tolist()),
            ):
                labelled = [{"text": texts.texts[i], "label": own.dataset.labels[texts.labels[i]]} for i in mine]
                write_rows(home / "data" / f"{part}.jsonl", labelled)
            section = {"name": name, "shared": "../../federation.toml", "rank": ranks[name]}
            made.site(name).write_text(tomli_w.dumps({"site": section, "data": {"path": "data"}}))
        return made

    return write


@contextmanager
def thread_site(path):
    """A site in this process, behind a real socket."""
    own = read_site(path)
    folder = Path(own.site.folder)
    folder.mkdir(exist_ok=True)
    simulation = build_site(own)
    site, listener = Site(simulation, site_client(simulation, own), folder), open_socket(own.site.address)
    threading.Thread(target=serve_bytes, args=(listener, new_key(Path(own.site.key)), site.answer), daemon=True).start()
    try:
        yield site
    finally:
        listener.close()


@pytest.fixture
def threads():
    """Starts sites of a world in this process."""
    with ExitStack() as stack:
        yield lambda world: [stack.enter_context(thread_site(path)) for path in world.sites()]


@pytest.fixture
def processes():
    """Starts sites of a world as processes of their own, all at once, and waits until they are ready."""
    begun = []

    def start(*paths):
        own = []
        for path in paths:
            reading, writing = os.pipe()
            process = warm.start("site", path, stdin=None, stdout=writing, stderr=None)
            os.close(writing)
            process.stdout = os.fdopen(reading)
            own.append(process)
        begun.extend(own)
        for process in own:
            assert select.select([process.stdout], [], [], 120)[0], "a site did not get ready"
            assert "is ready at" in process.stdout.readline()
        return own

    yield start
    for process in begun:
        process.kill()
        process.wait()
        process.stdout.close()


def state_bytes(server):
    """A server's whole state."""
    return to_bytes(server.to_payload())


def journal_state(folder):
    """The newest checkpoint, without the identity of its run."""
    from fedlora.federation.journal import read_checkpoint

    newest = sorted((folder / "checkpoints").glob("*.payload"))[-1]
    return to_bytes({key: value for key, value in read_checkpoint(newest).items() if key != "run"})


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(autouse=True, scope="session")
def _single_threaded():
    quiet_libraries()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
