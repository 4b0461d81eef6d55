# SPDX-License-Identifier: Apache-2.0
"""A site: it holds base, data and private client state, and serves one order at a time.

An order starts from the client state of the round that the server knows of (`Client.last_seen_round`). A state that
came of an update which never reached the server is forgotten, as if the site had been absent; so a repeated order
gives the same bytes, and a lost reply changes nothing but that it is lost.

The server is not trusted further than it has to be: it names a run by letters, digits, `-` and `_`, is given no more
than the site's rank, and one score a round.
"""

import hashlib
import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch

from fedlora.app.build.simulation import Simulation, build
from fedlora.app.config.schema import read_config, resolved
from fedlora.app.run.progress import quiet_libraries
from fedlora.app.run.results import export, place
from fedlora.core.metrics import Scoring
from fedlora.core.payload import to_bytes
from fedlora.core.rounds import Client, ClientState, Failure, Order, Reply
from fedlora.deploy.config import difference, shared_digest, shared_part
from fedlora.deploy.log import complain, one_line, say
from fedlora.deploy.runs import require_run_name
from fedlora.errors import ConfigError, FedloraError, RunFolderError
from fedlora.federation.client import personal_model, serve
from fedlora.federation.client_states import StoredClientStates
from fedlora.federation.files import file_name, write_json, write_whole
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
    OrderMessage,
    Refusal,
    decode_request,
    encode,
    encode_reply,
)
from fedlora.federation.wire_fields import Number

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
        self._newest: dict[str, Number] = {}
        """Run -> its newest order. A new run begins anew, whatever the server's clock says."""
        self._said: tuple[str, Number, bytes] | None = None
        """The newest order of all, and the answer to it: what comes twice is served once, and answered alike."""
        self._evaluated: dict[str, tuple[int, str]] = {}
        """Run -> the last round that this site was scored in, and a digest of what was scored."""
        self._worker = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,))
        simulation.trainer.prepare()  # before the server waits for an answer

    def answer(self, data: bytes) -> bytes:
        """The answer to a message; may be called from many threads, and serves one message at a time."""
        return self._worker.submit(self._answer, data).result()

    def _answer(self, data: bytes) -> bytes:
        number: Number | None = None
        try:
            request = decode_request(data)
            require_run_name(request.run)
            if isinstance(request, Hello):
                return encode(self._introduce(request)).data
            run, number = request.run, request.number
            if self._said and self._said[:2] == (run, number):
                return self._said[2]
            self._said = None
            answer = self._serve(request) if isinstance(request, OrderMessage) else self._finish(request)
            if number == self._newest.get(run):
                self._said = (run, number, answer.data)
            return answer.data
        except Exception as error:  # the text stays here: it may name files
            complain(f"{type(error).__name__}: {error}")
            return encode(FailureMessage(one_line(_public(error), MOST_REASON), number=number)).data

    def _introduce(self, hello: Hello) -> Introduction | Refusal:
        """Who this is, if both have the same shared config."""
        differs = difference(hello.shared, self.shared, self.client.id) or self._other_examples(hello.run)
        if differs:
            complain(f"refused the server's run {hello.run}: {differs}")
            return Refusal(self.client.id, one_line(differs, MOST_REASON), self.shared)
        say(f"takes part in the run {hello.run}")
        return Introduction(self.client, self.shared)

    def _serve(self, message: OrderMessage) -> Encoded:
        """Train or evaluate."""
        run, number, order = message.run, message.number, self._order(message)
        if number < self._newest.get(run, number):
            return encode(FailureMessage("an order that is older than one served before", number=number))
        self._newest[run] = number
        self._require_one_evaluation(run, order)
        client_states = self._client_states(run)
        held = self._held(client_states, order)
        pipeline, trainer = self._simulation.federation.pipeline, self._simulation.trainer
        started = time.perf_counter()
        (served,) = serve([order], {self.client.id: held} if held else {}, pipeline, trainer)
        if isinstance(served.answer, Failure):
            return encode(_told(served.answer, _round(order), number))
        say(f"{run}, {_line(order, served.answer, trainer.scoring)}, {time.perf_counter() - started:.1f} s")
        if served.client_state is not None:
            client_states.forget_after(self.client.id, order.client.last_seen_round or 0)
            client_states.keep(self.client.id, served.client_state)
        return encode_reply(served.answer, number)

    def _require_one_evaluation(self, run: str, order: Order) -> None:
        """See that a round brings one score: from the scores of many models a site's labels could be counted.

        A server that was started again asks for the same once more, or has the round trained again.

        Raises:
            FedloraError: another model was scored in this round, or in a later one.
        """
        last, digest = self._evaluated.get(run, (0, ""))
        if order.kind == "train":
            if order.round < last:
                del self._evaluated[run]
            return
        asked = hashlib.sha256(repr((order.part, order.client)).encode() + to_bytes(order.payload)).hexdigest()
        if order.round < last or (order.round == last and asked != digest):
            raise FedloraError(f"round {_round(order)} has been scored already: a site is scored once a round")
        self._evaluated[run] = (order.round, asked)

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
        say(f"the run {run} is over: this site's own model is in {target}")
        return encode(Finished(message.number))

    def _order(self, message: OrderMessage | FinishMessage) -> Order:
        order = message.order
        if message.shared != self._digest:
            raise FedloraError("the shared config has changed since the hello: start the server again")
        asked, here = order.client, self.client
        if (asked.id, asked.examples, asked.weight) != (here.id, here.examples, here.weight):
            raise FedloraError(
                f"the order is for {asked.id} with {_counted(asked)}, and this is {here.id} with {_counted(here)}: "
                f"start the server again"
            )
        if order.client.rank > self.client.rank:
            raise FedloraError(f"the order has rank {order.client.rank}, more than this site's {self.client.rank}")
        other = self._other_examples(message.run)
        if other:
            raise FedloraError(other)
        if not (self._home(message.run) / EXAMPLES).exists():
            write_json(self._home(message.run) / EXAMPLES, dict(self._simulation.digests))
        return order

    def _other_examples(self, run: str) -> str | None:
        """A sentence if this site began the run with other examples; None: with these, or it has not begun."""
        home = self._home(run)
        path = home / EXAMPLES
        if path.exists():
            if json.loads(path.read_text(encoding="utf-8")) == dict(self._simulation.digests):
                return None
            return f"{self.client.id} began this run with other examples: put them back there, or start a new run"
        if home.exists() and any(home.iterdir()):
            return f"{self.client.id} has a folder of this run's name that holds something else: start a new run"
        return None

    def _held(self, client_states: StoredClientStates, order: Order) -> ClientState | None:
        """The client state that the server knows of, or what is left of those before."""
        return client_states.before(self.client.id, (order.client.last_seen_round or 0) + 1)

    def _client_states(self, run: str) -> StoredClientStates:
        return StoredClientStates(self._home(run) / "client_states")

    def _home(self, run: str) -> Path:
        return self._folder / run


def _round(order: Order) -> int:
    """The round that an order belongs to: a score is asked for with the order that would open the next round."""
    return order.round - (order.kind == "evaluate")


def _line(order: Order, reply: Reply, scoring: Scoring) -> str:
    """What was done, for the site's log."""
    if order.kind == "train":
        loss = "" if reply.loss is None else f", loss {reply.loss:.3f}"
        return f"round {_round(order)}: trained {reply.steps} steps{loss}"
    values = scoring.values(reply.score)
    told = [f"{metric.name} {metric.words(values[metric.name])}" for metric in scoring.metrics if metric.name in values]
    examples = reply.score.examples if reply.score else 0
    return f"round {_round(order)}: scored on {examples} examples" + (f": {', '.join(told)}" if told else "")


def _told(failure: Failure, round: int, number: Number) -> FailureMessage:
    """What of a failure may leave the site: an exception's text may hold data, the other sentences are of numbers."""
    complain(f"round {round}: {failure.reason}")
    reason = failure.reason.partition(":")[0] if failure.kind == "error" else failure.reason
    return FailureMessage(one_line(reason, MOST_REASON), failure.kind, number)


def _counted(client: Client) -> str:
    """What counts of a client, in a sentence."""
    return f"{client.examples} examples" + ("" if client.counted_as is None else f" and weight {client.counted_as:g}")


def _public(error: Exception) -> str:
    """What of an error may leave the site."""
    plain = isinstance(error, FedloraError) and not isinstance(error, RunFolderError)
    return f"{type(error).__name__}: {error}" if plain else type(error).__name__


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
