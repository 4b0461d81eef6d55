# SPDX-License-Identifier: Apache-2.0
"""A site: it holds base, data and private client state, and serves one order at a time.

An order starts from the client state of the round that the server knows of (`Client.last_seen_round`). A state that
came of an update which never reached the server is forgotten, as if the site had been absent; so a repeated order
gives the same bytes, and a lost reply changes nothing but that it is lost.
"""

import json
import shutil
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cache
from pathlib import Path
from types import FrameType

import torch

from fedlora.app.build import Simulation, build
from fedlora.app.config import read_config, resolved
from fedlora.app.progress import quiet_libraries
from fedlora.app.results import export, place
from fedlora.core.rounds import Client, ClientState, Failure, Order
from fedlora.core.text import is_plain
from fedlora.deploy.config import build_site, difference, read_site, shared_digest, shared_part, site_client
from fedlora.deploy.connection import new_key, open_socket, serve_bytes
from fedlora.errors import ConfigError, FedloraError, RunFolderError
from fedlora.federation.client import personal_model, serve
from fedlora.federation.client_states import StoredClientStates
from fedlora.federation.files import file_name, hold, write_json, write_whole
from fedlora.federation.frame import Encoded
from fedlora.federation.journal import SUMMARY
from fedlora.federation.same_run import CONFIG
from fedlora.federation.wire import (
    MOST_REASON,
    FailureMessage,
    Finished,
    FinishMessage,
    Hello,
    Introduction,
    Number,
    OrderMessage,
    Refusal,
    decode_request,
    encode,
    encode_reply,
)

EXAMPLES = "examples.json"
"""Of each run, the digests of the examples that the site began it with."""


class Site:
    """One client of a deployed federation.

    Args:
        simulation: base, data, trainer and method.
        client: who it is in the federation.
        folder: where private client states and the site's adapter go, a folder for each run.
    """

    def __init__(self, simulation: Simulation, client: Client, folder: Path) -> None:
        self.client = client
        self.shared = shared_part(simulation.config, simulation.base)
        self._digest = shared_digest(self.shared)
        self._simulation = simulation
        self._folder = folder
        self._last, self._said = (0, 0), b""
        """The newest order, and the answer to it: what comes twice is served once, and answered alike."""
        self._worker = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,))

    def answer(self, data: bytes) -> bytes:
        """The answer to a message; may be called from many threads, and serves one message at a time."""
        return self._worker.submit(self._answer, data).result()

    def _answer(self, data: bytes) -> bytes:
        number: Number | None = None
        try:
            request = decode_request(data)
            if isinstance(request, Hello):
                return encode(self._introduce(request)).data
            number = request.number
            if self._said and number == self._last:
                return self._said
            self._said = b""
            answer = self._serve(request) if isinstance(request, OrderMessage) else self._finish(request)
            if number == self._last:
                self._said = answer.data
            return answer.data
        except Exception as error:  # the text stays here: it may name files
            print(f"fedlora: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            return encode(FailureMessage(_line(_public(error)), number=number)).data

    def _introduce(self, hello: Hello) -> Introduction | Refusal:
        """Who this is, if both have the same shared config."""
        differs = difference(hello.shared, self.shared, self.client.id) or self._other_examples(hello.run)
        if differs:
            print(f"fedlora: refused the server's run: {differs}", file=sys.stderr, flush=True)
            return Refusal(self.client.id, _line(differs), self.shared)
        return Introduction(self.client, self.shared)

    def _serve(self, message: OrderMessage) -> Encoded:
        """Train or evaluate."""
        number, order = message.number, self._order(message)
        if number < self._last:
            return encode(FailureMessage("an order that is older than one served before", number=number))
        self._last = number
        client_states = self._client_states(message.run)
        held = self._held(client_states, order)
        pipeline, trainer = self._simulation.federation.pipeline, self._simulation.trainer
        started = time.perf_counter()
        (served,) = serve([order], {self.client.id: held} if held else {}, pipeline, trainer)
        print(f"round {order.round}: {order.kind}, {time.perf_counter() - started:.1f} s", flush=True)
        if isinstance(served.answer, Failure):
            return encode(_told(served.answer, number))
        if served.client_state is not None:
            client_states.forget_after(self.client.id, order.client.last_seen_round or 0)
            client_states.keep(self.client.id, served.client_state)
        return encode_reply(served.answer, number)

    def _finish(self, message: FinishMessage) -> Encoded:
        """Write the site's final model; the run is over."""
        order, run = self._order(message), message.run
        client_state = self._held(self._client_states(run), order)
        simulation = self._simulation
        model = personal_model(order, client_state, simulation.federation.pipeline, simulation.spec)
        target = self._home(run) / place(simulation, model)
        part = target.with_name(f".{target.name}.part")
        for old in (part, target):
            shutil.rmtree(old, ignore_errors=True)
        export(simulation, model, part, message.summary, self.client)
        part.rename(target)
        home = self._home(run)  # with these the folder can be asked like a finished run's
        write_whole(home / CONFIG, resolved(simulation.config).encode())
        write_json(home / SUMMARY, message.summary)
        print(f"the run is over: this site's own model is in {target}", flush=True)
        return encode(Finished(message.number))

    def _order(self, message: OrderMessage | FinishMessage) -> Order:
        order = message.order
        if message.shared != self._digest:
            raise FedloraError("the shared config has changed since the hello: start the server again")
        asked = (order.client.id, order.client.examples)
        if asked != (self.client.id, self.client.examples):
            raise FedloraError(
                f"the order is for {asked[0]} with {asked[1]} examples, and this is {self.client.id} with "
                f"{self.client.examples}: start the server again"
            )
        other = self._other_examples(message.run)
        if other:
            raise FedloraError(other)
        return order

    def _other_examples(self, run: str) -> str | None:
        """A sentence if this site began the run with other examples; None: with these, or it begins now."""
        path, digests = self._home(run) / EXAMPLES, dict(self._simulation.digests)
        if not path.exists():
            write_json(path, digests)
        elif json.loads(path.read_text(encoding="utf-8")) != digests:
            return f"{self.client.id} began this run with other examples: put them back there, or start a new run"
        return None

    def _held(self, client_states: StoredClientStates, order: Order) -> ClientState | None:
        """The client state that the server knows of, or what is left of those before."""
        return client_states.before(self.client.id, (order.client.last_seen_round or 0) + 1)

    def _client_states(self, run: str) -> StoredClientStates:
        return StoredClientStates(self._home(run) / "client_states")

    def _home(self, run: str) -> Path:
        return self._folder / file_name(run)


def _told(failure: Failure, number: Number) -> FailureMessage:
    """What of a failure may leave the site: an exception's text may hold data, the other sentences are of numbers."""
    print(f"fedlora: round {failure.round}: {failure.reason}", file=sys.stderr, flush=True)
    reason = failure.reason.partition(":")[0] if failure.kind == "error" else failure.reason
    return FailureMessage(_line(reason), failure.kind, number)


def _public(error: Exception) -> str:
    """What of an error may leave the site."""
    plain = isinstance(error, FedloraError) and not isinstance(error, RunFolderError)
    return f"{type(error).__name__}: {error}" if plain else type(error).__name__


def _line(text: str) -> str:
    """Text as one line that a message may hold."""
    whole = " ".join(text.split())[:MOST_REASON]
    return "".join(character if is_plain(character, 1) else "?" for character in whole)


def run_site(path: Path, say: Callable[[str], object]) -> None:
    """Be a site until the process is stopped: load base and data once, and answer what comes through the socket.

    Args:
        path: the SITE.toml.
        say: is told when the site can be asked.

    Raises:
        UserError: with one sentence about what does not fit.
    """
    signal.signal(signal.SIGTERM, _stop)
    given = read_site(path)
    folder = Path(given.site.folder)
    with hold(folder) as let_go:
        folder.chmod(0o700)
        key = new_key(Path(given.site.key or ""))
        simulation = build_site(given)
        client = site_client(simulation, given)
        site = Site(simulation, client, folder)
        address = given.site.address or ""
        with closing(open_socket(address)) as listener:
            say(f"site {client.id} is ready at {address}: {client.examples} examples, rank {client.rank}")
            serve_bytes(listener, key, site.answer)
        let_go()


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def simulated_site(config: Path, overrides: tuple[str, ...], out: Path, number: int) -> Site:
    """A client of the config's [split] as a site, for a simulation that another engine carries.

    Args:
        config: of the simulation.
        overrides: of its keys.
        out: the run folder; what clients keep goes beside it.
        number: which client, in the order of their names.

    Raises:
        ConfigError: there is no such client.
    """
    simulation = _simulation(config, overrides)
    clients = sorted(simulation.federation.transport.roster(), key=lambda client: client.id)
    if number >= len(clients):
        raise ConfigError(f"There are {len(clients)} clients in the split and more nodes: start as many nodes.")
    client = clients[number]
    return Site(simulation, client, out.with_name(f"{out.name}-clients") / file_name(client.id))


@cache
def _simulation(config: Path, overrides: tuple[str, ...]) -> Simulation:
    quiet_libraries()
    return build(read_config(config, overrides, config.parent), workers=1)
