# SPDX-License-Identifier: Apache-2.0
"""Small federations to try a method on, and the play of one from beginning to end."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from hypothesis import strategies

from fedlora.core.adapter import Adapter, AdapterSpec, HeadMode
from fedlora.core.kinds import Kind, vera_projection
from fedlora.core.metrics import Score, Scoring
from fedlora.core.payload import Payload, from_bytes, to_bytes, type_of_wire
from fedlora.core.rounds import Client, ClientState, Failure, FitJob, Fitted, Order, Reply, ScoreJob, Trainer
from fedlora.federation.client_states import HeldClientStates
from fedlora.federation.local import LocalTransport
from fedlora.federation.pipeline import Pipeline
from fedlora.federation.record import RoundRecord
from fedlora.federation.server import Federation, Plan, Server, begin, federate
from fedlora.federation.settings import EvaluateSettings
from fedlora.federation.transport import Transport
from fedlora.laws.standin import StandIn
from fedlora.methods.facts import Facts


@dataclass(frozen=True)
class World:
    """One drawn federation."""

    shapes: tuple[tuple[int, int], ...]
    """(d_out, d_in) of each module."""
    ranks: tuple[int, ...]
    """Of each client."""
    examples: tuple[int, ...]
    """Of each client."""
    rounds: int
    absent: frozenset[tuple[int, int]] = frozenset()
    """(round, client number): not reached."""
    lost: frozenset[tuple[int, int]] = frozenset()
    """(round, client number): did the work, but the reply got lost."""
    scale: float = 1.0
    head: HeadMode = "shared"
    wire: str = "float32"
    seed: int = 0
    kind: Kind = "lora"
    weights: tuple[float, ...] | None = None
    """Of each client; None: the number of its examples."""

    @property
    def clients(self) -> tuple[Client, ...]:
        """The roster."""
        weights: Sequence[float | None] = self.weights or [None] * len(self.ranks)
        each = enumerate(zip(self.examples, self.ranks, weights, strict=True))
        return tuple(Client(name(k), n, rank, counted_as=weight) for k, (n, rank, weight) in each)

    @property
    def spec(self) -> AdapterSpec:
        """The adapter."""
        shapes = {f"module{m}": shape for m, shape in enumerate(self.shapes)}
        pair = vera_projection(shapes, max(self.ranks), self.seed) if self.kind == "vera" else None
        wire = type_of_wire[self.wire]
        return AdapterSpec(shapes, max(self.ranks), self.scale, self.kind, self.head, projection=pair, wire=wire)

    def trainer(self, same_data: bool = False) -> Trainer:
        """Who trains: the stand-in. A world on a real model has another."""
        return StandIn(self.spec, self.seed, same_data=same_data)

    def __str__(self) -> str:
        """The world in words, for a counter-example."""
        text = (
            f"modules {list(self.shapes)} (d_out, d_in), ranks {list(self.ranks)}, "
            f"examples {list(self.examples)}, weights {list(self.weights or self.examples)}, {self.rounds} round(s), "
            f"scale {self.scale}, head {self.head}, "
            f"wire {self.wire}, seed {self.seed}" + ("" if self.kind == "lora" else f", {self.kind} adapter")
        )
        missing = [f"c{k} absent in round {t}" for t, k in sorted(self.absent)]
        missing += [f"c{k}'s reply lost in round {t}" for t, k in sorted(self.lost)]
        return "; ".join([text, *missing])


def name(number: int) -> str:
    """The id of a client."""
    return f"c{number}"


@strategies.composite
def worlds(draw: strategies.DrawFn, facts: Facts) -> World:
    """Worlds of one to three modules and clients; unequal ranks and other kinds where the method takes them."""
    sizes = strategies.integers(4, 7)
    count = draw(strategies.integers(1, 3))
    rank = strategies.integers(1, 3)
    ranks = [draw(rank)] * count
    kind = draw(strategies.sampled_from(sorted(facts.kinds)))
    if facts.mixed_ranks and kind == "lora":
        ranks = draw(strategies.lists(rank, min_size=count, max_size=count))
    rounds = draw(strategies.integers(1, 4))
    places = strategies.tuples(strategies.integers(1, rounds), strategies.integers(0, count - 1))
    return World(
        shapes=tuple(draw(strategies.lists(strategies.tuples(sizes, sizes), min_size=1, max_size=3))),
        ranks=tuple(ranks),
        examples=tuple(draw(strategies.lists(strategies.integers(2, 9), min_size=count, max_size=count))),
        rounds=rounds,
        absent=draw(strategies.frozensets(places, max_size=3)),
        lost=draw(strategies.frozensets(places, max_size=2)),
        scale=draw(strategies.sampled_from([1.0, 0.5, 2.0])),
        head=draw(strategies.sampled_from(["frozen", "shared", "private"])),
        wire=draw(strategies.sampled_from(["float32", "bfloat16"])),
        seed=draw(strategies.integers(0, 99)),
        kind=kind,
        weights=draw(strategies.none() | strategies.tuples(*[strategies.sampled_from([0.5, 1.0, 60.0])] * count)),
    )


@dataclass
class Watched:
    """A trainer that remembers what it was asked and what it answered."""

    inner: Trainer
    fits: dict[tuple[int, str], list[tuple[FitJob, Fitted]]] = field(default_factory=dict)

    @property
    def spec(self) -> AdapterSpec:
        """The inner trainer's."""
        return self.inner.spec

    @property
    def head(self) -> Mapping[str, torch.Tensor]:
        """The inner trainer's."""
        return self.inner.head

    @property
    def scoring(self) -> Scoring:
        """The inner trainer's."""
        return self.inner.scoring

    def fit(self, jobs: Sequence[FitJob]) -> list[Fitted | Failure]:
        """Ask the inner trainer and remember."""
        answers = list(self.inner.fit(jobs))
        for job, answer in zip(jobs, answers, strict=True):
            if isinstance(answer, Fitted):
                self.fits.setdefault((job.round, job.client), []).append((job, answer))
        return answers

    def score(self, jobs: Sequence[ScoreJob]) -> list[Score | Failure]:
        """Ask the inner trainer."""
        return list(self.inner.score(jobs))


@dataclass
class Unreliable:
    """A transport that fails to deliver some orders and loses some replies, and writes down the rest."""

    inner: Transport
    absent: frozenset[tuple[int, str]]
    lost: frozenset[tuple[int, str]]
    backwards: bool = False
    orders: list[Order] = field(default_factory=list)
    replies: dict[tuple[int, str], Reply] = field(default_factory=dict)

    def roster(self) -> Sequence[Client]:
        """The roster, from behind if so asked."""
        all_clients = list(self.inner.roster())
        return all_clients[::-1] if self.backwards else all_clients

    def exchange(self, orders: Sequence[Order]) -> Iterator[Reply | Failure]:
        """Deliver what can be delivered."""
        training = [order for order in orders if order.kind == "train"]
        self.orders.extend(training)
        reached = [o for o in orders if o.kind == "evaluate" or (o.round, o.client.id) not in self.absent]
        answers = list(self.inner.exchange(reached[::-1] if self.backwards else reached))
        for answer in answers:
            if isinstance(answer, Failure):
                yield answer
            elif not training or (answer.round, answer.client) not in self.lost:
                if training:
                    self.replies[answer.round, answer.client] = answer
                yield answer


@dataclass
class Play:
    """A whole run of a world, and everything that was seen of it."""

    world: World
    servers: list[Server]
    """After each round; the first is the beginning."""
    client_states: list[dict[str, tuple[ClientState, ...]]]
    """After each round, what clients keep; the first is the beginning."""
    records: list[RoundRecord]
    trainer: Watched
    transport: Unreliable
    federation: Federation

    def trained(self, round: int, client: str) -> tuple[FitJob, Fitted]:
        """The last fit of a client's round: the one that counts."""
        return self.trainer.fits[round, client][-1]

    def trained_before(self, round: int, client: str) -> Adapter | None:
        """What a client's training ended on when it last trained before a round."""
        past = [t for t, who in self.trainer.fits if who == client and t < round]
        return self.trained(max(past), client)[1].start.adapter if past else None

    def exchange(self, round: int, client: str) -> tuple[Order, Reply]:
        """A client's order of a round, and its reply."""
        orders = (order for order in self.transport.orders if (order.round, order.client.id) == (round, client))
        return next(orders), self.transport.replies[round, client]

    def payloads(self) -> list[Payload]:
        """Everything that travelled, both ways."""
        down = [order.payload for order in self.transport.orders]
        return down + [reply.payload for reply in self.transport.replies.values()]

    def accepted(self, round: int) -> list[Client]:
        """The clients whose replies of a round went into the aggregate."""
        ids = {r.client for r in self.records[round - 1].clients if r.outcome == "accepted"}
        return [client for client in self.world.clients if client.id in ids]

    def fingerprint(self) -> bytes:
        """All servers and all client states as bytes."""
        servers = [to_bytes(server.to_payload()) for server in self.servers]
        return b"".join(servers) + b"".join(_client_state_bytes(kept) for kept in self.client_states)


def _client_state_bytes(kept: Mapping[str, Sequence[ClientState]]) -> bytes:
    trees: Payload = {
        client: [client_state.to_payload() for client_state in client_states]
        for client, client_states in sorted(kept.items())
    }
    return to_bytes(trees)


def play(
    pipeline: Pipeline,
    world: World,
    *,
    through_bytes: bool = True,
    client_batch: int = 2,
    backwards: bool = False,
    same_data: bool = False,
    restart: bool = False,
    sent_as: type[LocalTransport] = LocalTransport,
) -> Play:
    """Run a world.

    Args:
        pipeline: what is on trial.
        world: the federation.
        through_bytes: whether messages are encoded and decoded.
        client batch: clients served together.
        backwards: list clients and deliver answers in the opposite order.
        same_data: every client has the same data.
        restart: after every round, forget all but the bytes of server and client states.
        sent_as: the transport class.
    """
    spec = world.spec
    trainer = Watched(world.trainer(same_data))
    plan = Plan(world.rounds, world.seed, evaluate=EvaluateSettings(every=0), quorum=0)
    absent = frozenset((t, name(k)) for t, k in world.absent)
    lost = frozenset((t, name(k)) for t, k in world.lost)

    def build(client_states: HeldClientStates) -> tuple[Unreliable, Federation]:
        # a restart finds no attribute that the old objects were given on the way
        fresh = replace(pipeline, method=replace(pipeline.method), stages=tuple(map(replace, pipeline.stages)))
        inner = sent_as(
            world.clients,
            fresh,
            trainer,
            client_batch=client_batch,
            through_bytes=through_bytes,
            client_states=client_states,
        )
        transport = Unreliable(inner, absent, lost, backwards)
        return transport, Federation(fresh, spec, transport, plan, trainer)

    held = HeldClientStates()
    transport, federation = build(held)
    server = begin(federation, trainer.head)
    seen = Play(world, [server], [held.all()], [], trainer, transport, federation)
    while server.round < world.rounds:
        server, record = next(federate(federation, server))
        seen.servers.append(server)
        seen.client_states.append(held.all())
        seen.records.append(record)
        if restart:
            server = Server.from_payload(from_bytes(to_bytes(server.to_payload())))
            held = _reread(held)
            orders, replies = transport.orders, transport.replies
            transport, federation = build(held)
            transport.orders, transport.replies = orders, replies
    seen.transport, seen.federation = transport, federation
    return seen


def _reread(client_states: HeldClientStates) -> HeldClientStates:
    """The client states as they come back from bytes."""

    def reread(state: ClientState) -> ClientState:
        return ClientState.from_payload(from_bytes(to_bytes(state.to_payload())))

    return HeldClientStates({client: list(map(reread, states)) for client, states in client_states.all().items()})
