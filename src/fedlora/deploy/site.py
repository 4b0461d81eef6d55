# SPDX-License-Identifier: Apache-2.0
"""What a site answers: it holds base, data and private memory, and serves one order at a time.

An order starts from the memory of the round that the server knows of (`Client.seen`). A memory that came of an
update which never reached the server is forgotten, as if the site had been absent; so a repeated order gives the same
bytes, and a lost reply changes nothing but that it is lost.
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
from fedlora.core.rounds import Client, Failure, Memory, Order
from fedlora.core.text import is_plain
from fedlora.deploy.letters import MOST_REASON, Letter, seal, unseal
from fedlora.deploy.shared import difference, shared_digest, shared_part
from fedlora.errors import FedloraError, RunFolderError
from fedlora.federation.client import personal_model, serve
from fedlora.federation.files import write_json
from fedlora.federation.memories import StoredMemories
from fedlora.federation.transport import decode_order, encode_reply

EXAMPLES = "examples.json"
"""Of each run, the digests of the examples that the site began it with."""


class Site:
    """One client of a deployed federation.

    Args:
        simulation: base, data, trainer and method.
        client: who it is in the federation.
        folder: where private memories and the site's own adapter go, a folder for each run.
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
        """The answer to a letter; may be called from many threads, and serves one letter at a time."""
        return self._worker.submit(self._answer, data).result()

    def _answer(self, data: bytes) -> bytes:
        number: object = None
        try:
            letter = unseal(data)
            number = letter.envelope.get("number")
            if self._said and number == list(self._last):
                return self._said
            answers = {"hello": self._hello, "order": self._serve, "finish": self._finish}
            if letter.kind not in answers:
                return seal(_failure(number, f"a letter of kind {letter.kind[:40]!r} is not known here"))
            self._said = b""
            answer = seal(answers[letter.kind](letter))
            if number == list(self._last):
                self._said = answer
            return answer
        except Exception as error:  # the text stays here: it may name files
            print(f"fedlora: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            return seal(_failure(number, _public(error)))

    def _hello(self, letter: Letter) -> Letter:
        """Who this is, if both have the same shared config."""
        differs = difference(letter.envelope["shared"], self.shared, self.client.id)
        differs = differs or self._other_examples(letter.envelope["run"])
        if differs:
            print(f"fedlora: refused the server's run: {differs}", file=sys.stderr, flush=True)
            return Letter("refused", {"name": self.client.id, "reason": _line(differs), "shared": self.shared})
        memory = self._memories(letter.envelope["run"]).latest(self.client.id)
        own = {"name": self.client.id, "examples": self.client.examples, "rank": self.client.rank}
        return Letter("hello", {**own, "memory": memory.round if memory else None, "shared": self.shared})

    def _serve(self, letter: Letter) -> Letter:
        """Train or evaluate."""
        number, order = letter.envelope["number"], self._order(letter)
        if tuple(number) < self._last:
            return _failure(number, "an order that is older than one served before")
        self._last = (int(number[0]), int(number[1]))
        memories = self._memories(letter.envelope["run"])
        held = self._held(memories, order)
        method, trainer = self._simulation.federation.method, self._simulation.trainer
        started = time.perf_counter()
        (served,) = serve([order], {self.client.id: held} if held else {}, method, trainer)
        print(f"round {order.round}: {order.kind}, {time.perf_counter() - started:.1f} s", flush=True)
        if isinstance(served.answer, Failure):
            return self._failed(number, served.answer)
        if served.memory is not None:
            memories.forget_after(self.client.id, order.client.seen or 0)
            memories.keep(self.client.id, served.memory)
        envelope, parcel = encode_reply(served.answer)
        return Letter("reply", {"number": number, "reply": json.loads(envelope)}, parcel)

    def _finish(self, letter: Letter) -> Letter:
        """Write the site's own model; the run is over."""
        order, run = self._order(letter), letter.envelope["run"]
        memory = self._held(self._memories(run), order)
        simulation = self._simulation
        model = personal_model(order, memory, simulation.federation.method, simulation.spec)
        target = self._home(run) / place(simulation, model)
        part = target.with_name(f".{target.name}.part")
        for old in (part, target):
            shutil.rmtree(old, ignore_errors=True)
        export(simulation, model, part, letter.envelope["summary"], self.client)
        part.rename(target)
        print(f"the run is over: this site's own model is in {target}", flush=True)
        return Letter("finished", {"number": letter.envelope["number"], "name": self.client.id})

    def _order(self, letter: Letter) -> Order:
        order = decode_order(json.dumps(letter.envelope["order"]).encode(), letter.parcel)
        if letter.envelope["shared"] != self._digest:
            raise FedloraError("the shared config has changed since the hello: start the server again")
        asked = (order.client.id, order.client.examples)
        if asked != (self.client.id, self.client.examples):
            raise FedloraError(
                f"the order is for {asked[0]} with {asked[1]} examples, and this is {self.client.id} with "
                f"{self.client.examples}: start the server again"
            )
        other = self._other_examples(letter.envelope["run"])
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

    def _held(self, memories: StoredMemories, order: Order) -> Memory | None:
        """The memory that the server knows of, or what is left of those before."""
        return memories.before(self.client.id, (order.client.seen or 0) + 1)

    def _memories(self, run: str) -> StoredMemories:
        return StoredMemories(self._home(run) / "memories")

    def _home(self, run: str) -> Path:
        return self._folder / quote(run, safe="")

    def _failed(self, number: object, failure: Failure) -> Letter:
        print(f"fedlora: round {failure.round}: {failure.reason}", file=sys.stderr, flush=True)
        tells = failure.memory_lost or failure.diverged  # these sentences are made of numbers
        answer = _failure(number, failure.reason if tells else failure.reason.partition(":")[0])
        flags = {"memory_lost": failure.memory_lost, "diverged": failure.diverged}
        return replace(answer, envelope={**answer.envelope, **flags})


def _failure(number: object, reason: str) -> Letter:
    return Letter("failure", {"number": number, "reason": _line(reason)})


def _public(error: Exception) -> str:
    """What of an error may leave the site."""
    plain = isinstance(error, FedloraError) and not isinstance(error, RunFolderError)
    return f"{type(error).__name__}: {error}" if plain else type(error).__name__


def _line(text: str) -> str:
    """Text as one line that a letter may hold."""
    whole = " ".join(text.split())[:MOST_REASON]
    return "".join(character if is_plain(character, 1) else "?" for character in whole)
