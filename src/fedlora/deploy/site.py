# SPDX-License-Identifier: Apache-2.0
"""What a site answers: it holds base, data and private client state, and serves one order at a time.

An order starts from the client state of the round that the server knows of (`Client.last_seen_round`). A state that
came of an update which never reached the server is forgotten, as if the site had been absent; so a repeated order
gives the same bytes, and a lost reply changes nothing but that it is lost.
"""

import json
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import torch

from fedlora.app.build import Simulation
from fedlora.app.results import export, place
from fedlora.core.rounds import Client, ClientState, Failure, Order
from fedlora.core.text import is_plain
from fedlora.deploy.messages import MOST_REASON, Message, decode_message, encode_message
from fedlora.deploy.shared import difference, shared_digest, shared_part
from fedlora.errors import FedloraError, RunFolderError
from fedlora.federation.client import personal_model, serve
from fedlora.federation.client_states import StoredClientStates
from fedlora.federation.files import write_json
from fedlora.federation.transport import decode_order, encode_reply

EXAMPLES = "examples.json"
"""Of each run, the digests of the examples that the site began it with."""


class Site:
    """One client of a deployed federation.

    Args:
        simulation: base, data, trainer and method.
        client: who it is in the federation.
        folder: where private client states and the site's own adapter go, a folder for each run.
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
        number: object = None
        try:
            message = decode_message(data)
            number = message.envelope.get("number")
            if self._said and number == list(self._last):
                return self._said
            answers = {"hello": self._hello, "order": self._serve, "finish": self._finish}
            if message.kind not in answers:
                return encode_message(_failure(number, f"a message of kind {message.kind[:40]!r} is not known here"))
            self._said = b""
            answer = encode_message(answers[message.kind](message))
            if number == list(self._last):
                self._said = answer
            return answer
        except Exception as error:  # the text stays here: it may name files
            print(f"fedlora: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            return encode_message(_failure(number, _public(error)))

    def _hello(self, message: Message) -> Message:
        """Who this is, if both have the same shared config."""
        differs = difference(message.envelope["shared"], self.shared, self.client.id)
        differs = differs or self._other_examples(message.envelope["run"])
        if differs:
            print(f"fedlora: refused the server's run: {differs}", file=sys.stderr, flush=True)
            return Message("refused", {"name": self.client.id, "reason": _line(differs), "shared": self.shared})
        client_state = self._client_states(message.envelope["run"]).latest(self.client.id)
        own = {"name": self.client.id, "examples": self.client.examples, "rank": self.client.rank}
        return Message(
            "hello", {**own, "client_state": client_state.round if client_state else None, "shared": self.shared}
        )

    def _serve(self, message: Message) -> Message:
        """Train or evaluate."""
        number, order = message.envelope["number"], self._order(message)
        if tuple(number) < self._last:
            return _failure(number, "an order that is older than one served before")
        self._last = (int(number[0]), int(number[1]))
        client_states = self._client_states(message.envelope["run"])
        held = self._held(client_states, order)
        pipeline, trainer = self._simulation.federation.pipeline, self._simulation.trainer
        started = time.perf_counter()
        (served,) = serve([order], {self.client.id: held} if held else {}, pipeline, trainer)
        print(f"round {order.round}: {order.kind}, {time.perf_counter() - started:.1f} s", flush=True)
        if isinstance(served.answer, Failure):
            return self._failed(number, served.answer)
        if served.client_state is not None:
            client_states.forget_after(self.client.id, order.client.last_seen_round or 0)
            client_states.keep(self.client.id, served.client_state)
        envelope, payload = encode_reply(served.answer)
        return Message("reply", {"number": number, "reply": json.loads(envelope)}, payload)

    def _finish(self, message: Message) -> Message:
        """Write the site's own model; the run is over."""
        order, run = self._order(message), message.envelope["run"]
        client_state = self._held(self._client_states(run), order)
        simulation = self._simulation
        model = personal_model(order, client_state, simulation.federation.pipeline, simulation.spec)
        target = self._home(run) / place(simulation, model)
        part = target.with_name(f".{target.name}.part")
        for old in (part, target):
            shutil.rmtree(old, ignore_errors=True)
        export(simulation, model, part, message.envelope["summary"], self.client)
        part.rename(target)
        print(f"the run is over: this site's own model is in {target}", flush=True)
        return Message("finished", {"number": message.envelope["number"], "name": self.client.id})

    def _order(self, message: Message) -> Order:
        order = decode_order(json.dumps(message.envelope["order"]).encode(), message.payload)
        if message.envelope["shared"] != self._digest:
            raise FedloraError("the shared config has changed since the hello: start the server again")
        asked = (order.client.id, order.client.examples)
        if asked != (self.client.id, self.client.examples):
            raise FedloraError(
                f"the order is for {asked[0]} with {asked[1]} examples, and this is {self.client.id} with "
                f"{self.client.examples}: start the server again"
            )
        other = self._other_examples(message.envelope["run"])
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
        return self._folder / quote(run, safe="")

    def _failed(self, number: object, failure: Failure) -> Message:
        print(f"fedlora: round {failure.round}: {failure.reason}", file=sys.stderr, flush=True)
        tells = failure.state_lost or failure.diverged  # these sentences are made of numbers
        answer = _failure(number, failure.reason if tells else failure.reason.partition(":")[0])
        flags = {"state_lost": failure.state_lost, "diverged": failure.diverged}
        return replace(answer, envelope={**answer.envelope, **flags})


def _failure(number: object, reason: str) -> Message:
    return Message("failure", {"number": number, "reason": _line(reason)})


def _public(error: Exception) -> str:
    """What of an error may leave the site."""
    plain = isinstance(error, FedloraError) and not isinstance(error, RunFolderError)
    return f"{type(error).__name__}: {error}" if plain else type(error).__name__


def _line(text: str) -> str:
    """Text as one line that a message may hold."""
    whole = " ".join(text.split())[:MOST_REASON]
    return "".join(character if is_plain(character, 1) else "?" for character in whole)
