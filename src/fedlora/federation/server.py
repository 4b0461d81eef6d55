# SPDX-License-Identifier: Apache-2.0
"""The round loop, once for every method and every transport: a generator of round records.

Stopping is `break`; logging is `for`. The server's whole state is one frozen value, handed out with every
record, from which a later `federate` goes on.
"""

import itertools
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from fedlora.core.adapter import AdapterSpec, HeadMode, Start, Tensors
from fedlora.core.metrics import Score
from fedlora.core.payload import Payload, branch, cast_floats, integer_at
from fedlora.core.rounds import Client, Failure, Order, Reply, ScoreJob, Trainer
from fedlora.core.schema import ReplySchema, TensorSpec, UploadSchema
from fedlora.federation.client import personal_model
from fedlora.federation.collect import Collector
from fedlora.federation.isolate import score_each
from fedlora.federation.over_clients import Spread, spreads
from fedlora.federation.pipeline import Pipeline
from fedlora.federation.record import ClientRecord, RoundRecord, blank_record, personal
from fedlora.federation.sampling import drops_out, participants
from fedlora.federation.settings import ClientsSettings, EvaluateSettings
from fedlora.federation.transport import Transport, join_head
from fedlora.federation.validate import validate_reply
from fedlora.methods.base import Method, State

Told = Literal["headline", "every metric"]
"""Whose spread over clients is told: of the headline metric, or of every metric."""
_SCORED_AT_A_TIME = 500
"""Clients whose evaluation is under way together: what each is sent is in client state until it has answered."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, with whom, and how often to look."""

    rounds: int
    seed: int = 0
    clients: ClientsSettings = field(default_factory=ClientsSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    quorum: int = 1
    """A round fails where fewer clients take part; 0: a round may come to nothing."""
    told: Told = "headline"


@dataclass(frozen=True, slots=True, eq=False)
class Federation:
    """Everything about a run that does not change from round to round."""

    pipeline: Pipeline
    """The method with its stages."""
    spec: AdapterSpec
    transport: Transport
    plan: Plan
    scorer: Trainer
    """Scores the global model on the server's test set, where it has one, and knows the task's metrics."""
    unseen: tuple[str, ...] = ()
    """Clients that never train; the scorer has their examples."""

    @property
    def method(self) -> Method:
        """The method alone."""
        return self.pipeline.method

    @property
    def head_mode(self) -> HeadMode:
        """What becomes of the head under this method."""
        return self.pipeline.facts.head_mode(self.spec)


@dataclass(frozen=True, slots=True, eq=False)
class Server:
    """All that the server knows between two rounds."""

    round: int
    """The last finished one; 0 before the first."""
    state: State
    """The adapter, the head, and what the method and its stages keep."""
    last_seen_rounds: dict[str, int] = field(default_factory=dict)
    """Client -> the round of its last accepted upload."""

    def __repr__(self) -> str:
        return f"Server(after round {self.round})"

    def to_payload(self) -> Payload:
        """The server as a tree that survives to bytes and back."""
        return {"round": self.round, "state": self.state.to_payload(), "seen": self.last_seen_rounds}

    @staticmethod
    def from_payload(payload: Payload) -> "Server":
        """The inverse of `to_payload`."""
        seen = branch(payload, "seen")
        return Server(
            integer_at(payload, "round"),
            State.from_payload(branch(payload, "state")),
            {client: integer_at(seen, client) for client in seen},
        )


def begin(federation: Federation, head: Tensors) -> Server:
    """The server before round 1.

    Args:
        federation: what is to be run.
        head: the base's.

    Raises:
        MethodError: the method cannot run this federation.
    """
    federation.method.check_federation(federation.spec, federation.transport.roster())
    return Server(0, federation.pipeline.init(federation.spec, federation.plan.seed, head))


def federate(federation: Federation, server: Server) -> Iterator[tuple[Server, RoundRecord]]:
    """Run the rounds after `server.round` up to the plan's last.

    Args:
        federation: the rules and the members.
        server: where to go on from; `begin` makes the first.

    Yields:
        The server after each round, and the round's record.

    Raises:
        QuorumError: fewer clients than the plan's quorum took part in a round.
        DivergedError: likewise, because losses were not finite. The state before that round is the last one yielded.
    """
    plan, every = federation.plan, federation.plan.evaluate.every
    for round in range(server.round + 1, plan.rounds + 1):
        started = time.perf_counter()
        server, trained = _train(federation, server, round)
        middle = time.perf_counter()
        due = round == plan.rounds or (every > 0 and round % every == 0)
        record = RoundRecord(round, tuple(trained), due, federation.scorer.scoring)
        if due:
            record = _evaluate(federation, server, record)
        ended = time.perf_counter()
        yield server, replace(record, seconds={"train": middle - started, "evaluate": ended - middle})


def _roster(federation: Federation, server: Server) -> list[Client]:
    """All clients, sorted, with what the server knows of them: what they hold, and their rank now.

    The only place that asks the method for ranks: whoever gets one of these clients finds its rank in it.
    """
    all_clients = sorted(federation.transport.roster(), key=lambda client: client.id)
    known = [replace(client, last_seen_round=server.last_seen_rounds.get(client.id)) for client in all_clients]
    return [replace(client, rank=federation.method.rank(server.state, client)) for client in known]


def _order(federation: Federation, server: Server, client: Client, kind: Literal["train", "evaluate"]) -> Order:
    """The next round's order: what the method dispatches, and the head where it is shared."""
    round = server.round + 1
    head = server.state.head if federation.head_mode == "shared" else {}
    payload = join_head(federation.method.dispatch(server.state, client, round), head)
    if kind == "train":
        schema = _reply_schema(federation, server, client, head)
    else:
        schema = ReplySchema(UploadSchema(), scoring=federation.scorer.scoring)
    return Order(kind, round, client, cast_floats(payload, federation.spec.wire), federation.plan.evaluate.part, schema)


def _reply_schema(federation: Federation, server: Server, client: Client, head: Tensors) -> ReplySchema:
    """What the upload of the next round must keep to: what the method expects, and the head where it is shared."""
    expected = federation.method.upload_schema(server.state, client, federation.spec, server.round + 1)
    heads = {name: TensorSpec(tuple(tensor.shape), federation.spec.wire) for name, tensor in head.items()}
    return ReplySchema(expected, heads, federation.pipeline.facts.sends, federation.plan.clients.norm_limit)


def _train(federation: Federation, server: Server, round: int) -> tuple[Server, list[ClientRecord]]:
    """One round of training: dispatch, exchange, aggregate."""
    plan = federation.plan
    per_round = None if federation.method.full_participation(server.state, round) else plan.clients.per_round
    chosen = participants(_roster(federation, server), per_round, plan.seed, round)
    reached = [c for c in chosen if not drops_out(c.id, plan.clients.dropout, plan.seed, round)]
    orders = [_order(federation, server, client, "train") for client in reached]
    collector = Collector(orders)
    updates = collector.updates(federation.transport.exchange(orders))
    first = next(updates, None)
    state = server.state
    if first is not None:
        state = federation.pipeline.aggregate(state, itertools.chain([first], updates), round)
    for _ in updates:
        pass  # a method that stopped early has still been sent these
    if not collector.require_quorum(plan.quorum):
        state = server.state
    dropped = [blank_record(client, round, "idle").failed("unreachable") for client in chosen if client not in reached]
    records = sorted([*collector.records.values(), *dropped], key=lambda record: record.client)
    seen = {
        client: at for client, at in (server.last_seen_rounds | collector.seen).items() if client not in collector.lost
    }
    return Server(round, state, seen), records


def _evaluate(federation: Federation, server: Server, record: RoundRecord) -> RoundRecord:
    """Personal scores of everyone, and the global model's on the server's test set."""
    roster = _roster(federation, server)
    scores: dict[str, Score | None] = {}
    sent: dict[str, int] = {}
    for first in range(0, len(roster), _SCORED_AT_A_TIME):
        orders = [
            _order(federation, server, client, "evaluate") for client in roster[first : first + _SCORED_AT_A_TIME]
        ]
        asked = {order.client.id: order for order in orders}
        for answer in federation.transport.exchange(orders):
            if answer.client in asked:
                sent[answer.client] = answer.traffic.down + answer.traffic.up
                seen = validate_reply(answer, asked[answer.client]) if isinstance(answer, Reply) else answer
                if isinstance(seen, Reply):
                    scores[answer.client] = seen.score
    took_part = {entry.client: entry for entry in record.clients}
    all_clients = {client.id: blank_record(client, record.round, "idle") for client in roster} | took_part
    clients = tuple(replace(all_clients[name], score=scores.get(name)) for name in sorted(all_clients))
    return replace(
        record,
        clients=clients,
        personal=personal([scores.get(client.id) for client in roster], record.scoring),
        global_score=_global_score(federation, server, scores),
        over_clients=spreads(list(scores.values()), record.scoring) if federation.plan.told == "every metric" else {},
        unseen=_unseen(federation, server, record),
        evaluation_bytes=sum(sent.values()),
    )


def last_orders(federation: Federation, server: Server) -> list[Order]:
    """For everyone the order from which a client makes its own model as it is now."""
    return [_order(federation, server, client, "evaluate") for client in _roster(federation, server)]


def _global_score(federation: Federation, server: Server, scores: Mapping[str, Score | None]) -> Score | None:
    if federation.pipeline.facts.centralized:
        return next(iter(scores.values()), None)  # the one client's test part is the whole test set
    model = global_model(federation, server)
    if model is None:
        return None
    (score,) = federation.scorer.score([ScoreJob(None, model, federation.plan.evaluate.part)])
    return None if isinstance(score, Failure) or not score.examples else score


def _unseen(federation: Federation, server: Server, record: RoundRecord) -> dict[str, Spread]:
    """How clients score that never train. Choices on a validation part must not see them."""
    if not federation.unseen or federation.plan.evaluate.part != "test":
        return {}
    model = newcomer_model(federation, server)
    jobs = [ScoreJob(client, model, "unseen") for client in federation.unseen]
    answers = score_each(federation.scorer, jobs, [record.round] * len(jobs))
    return spreads([None if isinstance(answer, Failure) else answer for answer in answers], record.scoring)


def newcomer_model(federation: Federation, server: Server) -> Start:
    """What a client has that never trained: the global model, or where clients keep a part to themselves, what the
    server sends at first contact, with that part as every client begins with it."""
    model = global_model(federation, server)
    if model is not None:
        return model
    newcomer = Client("newcomer", 1, federation.spec.rank)
    newcomer = replace(newcomer, rank=federation.method.rank(server.state, newcomer))
    order = _order(federation, server, newcomer, "evaluate")
    return personal_model(order, None, federation.pipeline, federation.spec)


def global_model(federation: Federation, server: Server) -> Start | None:
    """The global model with its head; None where clients keep a side or the head to themselves."""
    result = federation.method.result(server.state)
    if result is None or federation.head_mode == "private":
        return None
    head = server.state.head if federation.head_mode == "shared" else {}
    return Start(result.adapter.with_dense(head), result.merged)
