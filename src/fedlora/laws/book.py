# SPDX-License-Identifier: Apache-2.0
"""The laws. Each is a function of a method with its stages and of a world; it raises where it does not hold."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedlora.core.adapter import effective
from fedlora.core.payload import cast_floats, to_bytes
from fedlora.core.rounds import Client, Failure
from fedlora.errors import FedloraError
from fedlora.federation.pipeline import Pipeline
from fedlora.federation.transport import split_head
from fedlora.federation.validate import validate_reply
from fedlora.laws.chain import hooks, ranks_once, stages
from fedlora.laws.evidence import (
    BrokenLawError,
    aggregations,
    best,
    close,
    contains,
    equal,
    moved_slots,
    moves,
    observed,
    require,
    same,
    slots_of,
    slots_sent,
    tampered,
    unowned_slots,
)
from fedlora.laws.sums import sums
from fedlora.laws.world import World, play


@dataclass(frozen=True)
class Law:
    """One law."""

    name: str
    statement: str
    check: Callable[[Pipeline, World], None]
    applies: Callable[[Pipeline], bool] = lambda pipeline: True


def agreement(pipeline: Pipeline, world: World) -> None:
    """Direct = through bytes = any size of client batch, bit for bit: servers and client client states."""
    expected = observed(pipeline, world).fingerprint()
    for through_bytes, client_batch in ((False, 2), (True, 1), (False, 9)):
        found = play(pipeline, world, through_bytes=through_bytes, client_batch=client_batch).fingerprint()
        way = "through bytes" if through_bytes else "handed over directly"
        require(
            found == expected,
            f"{way} in client batches of {client_batch} gives other bits than through bytes in client batches of 2",
        )


def order(pipeline: Pipeline, world: World) -> None:
    """The order in which clients are listed or answer changes nothing, bit for bit."""
    expected = observed(pipeline, world).fingerprint()
    require(play(pipeline, world, backwards=True).fingerprint() == expected, "listed backwards, other bits")


def repetition(pipeline: Pipeline, world: World) -> None:
    """The same seed gives the same bits."""
    require(observed(pipeline, world).fingerprint() == play(pipeline, world).fingerprint(), "run twice, other bits")


def resume(pipeline: Pipeline, world: World) -> None:
    """State and client states survive to bytes and back, and a run that goes on from them gives the same bits."""
    expected = observed(pipeline, world).fingerprint()
    found = play(pipeline, world, restart=True).fingerprint()
    require(found == expected, "restarted from bytes after every round, other bits")


def weights(pipeline: Pipeline, world: World) -> None:
    """Scaling all weights changes nothing; one client of weight a + b equals two of a and of b."""
    run = observed(pipeline, world)
    for round, before, updates in aggregations(run):
        expected = pipeline.aggregate(before, iter(updates), round)
        scaled = [replace(u, client=_times(u.client, 3.0)) for u in updates]
        found = pipeline.aggregate(before, iter(scaled), round)
        same(pipeline, world.spec, found, expected, f"round {round}: three times the weights, another result")
        first = updates[0].client
        halves = [
            replace(updates[0], client=replace(_times(first, share), id=f"{first.id}{part}"))
            for part, share in (("a", 0.75), ("b", 0.25))
        ]
        found = pipeline.aggregate(before, iter([*halves, *updates[1:]]), round)
        same(pipeline, world.spec, found, expected, f"round {round}: {first.id} as two clients, another result")


def _times(client: Client, factor: float) -> Client:
    """A client whose weight is another one, whatever its number of examples."""
    return replace(client, counted_as=factor * client.weight)


def exactness(pipeline: Pipeline, world: World) -> None:
    """The class fact `exact`, in effective deltas."""
    run = observed(pipeline, replace(world, wire="float32"))
    for round, server in enumerate(run.servers[1:], start=1):
        before, after = pipeline.method.result(run.servers[round - 1].state), pipeline.method.result(server.state)
        accepted = run.accepted(round)
        if pipeline.facts.exact == "none":
            require(after is None, "declared to have no global model, but gives one")
        if before is None or after is None or not accepted:
            continue
        moved = moves(run, round, accepted)
        old, new = effective(before, world.spec), effective(after, world.spec)
        for module in new:
            if pipeline.facts.exact == "update":
                close(new[module] - old[module], moved[module][0], f"round {round}, {module}: the update")
            if pipeline.facts.exact == "before truncation":
                best(new[module], moved[module][1], after.adapter.ranks()[module], f"round {round}, {module}")


def sides(pipeline: Pipeline, world: World) -> None:
    """A private side or head is in no payload, and client k's never reaches client j."""
    run = observed(pipeline, replace(world, wire="float32"))
    head_mode = pipeline.facts.head_mode(world.spec)
    secrets: list[Tensor] = []
    for (round, client), done in run.trainer.fits.items():
        job, fitted = done[-1]
        start, trained = job.fit.start.adapter, fitted.start.adapter
        kept = run.trained_before(round, client)
        for side in sorted(pipeline.facts.private_sides):
            secrets += moved_slots(side, trained, start)
            same = kept is None or equal(start.side(side), kept.side(side))
            require(same, f"round {round}: {client} does not start from its own {side} side")
        if head_mode == "private" and kept is not None:
            same = equal(start.dense, kept.dense)
            require(same, f"round {round}: {client} does not start from its own head")
    for payload in run.payloads():
        adapter, head = split_head(payload)
        require(not contains(adapter, secrets), "a private side is in a payload")
        require(not head or head_mode == "shared", f"a {head_mode} head is in a payload")


def absence(pipeline: Pipeline, world: World) -> None:
    """Who is away keeps its client state and changes nothing else; a slot without owners keeps its value."""
    run = observed(pipeline, world)
    counted = {round: updates for round, _, updates in aggregations(run)}
    for round in range(1, world.rounds + 1):
        asked = {client for t, client in run.trainer.fits if t == round}
        for client in run.client_states[round].keys() - asked:
            kept = run.client_states[round][client] == run.client_states[round - 1].get(client)
            require(kept, f"round {round}: the client state of absent {client} changed")
        before, after = run.servers[round - 1].state, run.servers[round].state
        updates = counted.get(round)
        alone = pipeline.aggregate(before, iter(updates), round) if updates else before
        unmixed = to_bytes(alone.to_payload()) == to_bytes(after.to_payload())
        require(unmixed, f"round {round}: the state is not made of the accepted updates alone")
        if updates and pipeline.facts.refactorizes:
            continue
        for side, module, slots in unowned_slots(run, round):
            old = slots_of(world.kind, side, before.adapter.side(side)[module])
            new = slots_of(world.kind, side, after.adapter.side(side)[module])
            kept = all(new[slot].equal(old[slot]) for slot in slots)
            require(kept, f"round {round}: slots {slots} of {module} had no owner; their {side} side moved")


def bytes_counted(pipeline: Pipeline, world: World) -> None:
    """Counted bytes = measured length of what was sent."""
    run = observed(pipeline, world)
    for record in run.records:
        for entry in record.clients:
            if entry.outcome == "accepted":
                order, reply = run.exchange(record.round, entry.client)
                counted = (entry.traffic.down, entry.traffic.up)
                sent = (len(to_bytes(order.payload)), len(to_bytes(reply.payload)))
                require(counted == sent, f"round {record.round}, {entry.client}: counted {counted}, sent {sent}")


def ranks(pipeline: Pipeline, world: World) -> None:
    """At most rank x N slots a side go up; what goes down is what the method declares."""
    run = observed(pipeline, world)
    modules = len(world.shapes)
    for round, client in run.transport.replies:
        order, reply = run.exchange(round, client)
        allowed = pipeline.method.slots_up(order.client, world.spec) if world.kind == "lora" else modules
        for side, sent in slots_sent(world.kind, split_head(reply.payload)[0]).items():
            within = allowed is None or sent <= allowed
            require(within, f"round {round}: {client} sent {sent} slots of its {side} side, not {allowed}")
        down = slots_sent(world.kind, split_head(order.payload)[0])
        slots = pipeline.method.dispatched_ranks(run.servers[round - 1].state, order.client)
        held = sum(slots.values()) if world.kind == "lora" else modules
        whole = all(sent == held for sent in down.values())
        require(whole, f"round {round}: {client} was sent {down} slots, declared {held} a side")
        if round > 1 and len(run.accepted(round - 1)) == len(world.clients):
            there = run.servers[0].state.adapter
            declared = {side for side in pipeline.method.down(round) if there.side(side)}
            steady = down.keys() == declared
            require(steady, f"round {round}: {client} was sent {sorted(down)}, declared {sorted(declared)}")


def upload_validation(pipeline: Pipeline, world: World) -> None:
    """What clients send is what the method expects of them, and with anything wrong in it it is refused."""
    try:
        run = observed(pipeline, world)
    except FedloraError as error:  # a first round in which nothing was let in
        raise BrokenLawError(str(error)) from error
    for record in run.records:
        for entry in record.clients:
            let_in = not entry.status.startswith("refused")
            require(let_in, f"round {record.round}: what {entry.client} sent is {entry.status}")
    for round, client in run.transport.replies:
        order, reply = run.exchange(round, client)
        for wrong, payload in tampered(reply.payload):
            refused = isinstance(validate_reply(replace(reply, payload=payload), order), Failure)
            require(refused, f"round {round}: what {client} sent is let in with {wrong}")


def idempotence(pipeline: Pipeline, world: World) -> None:
    """Clients that upload the same get back what was uploaded, as effective deltas."""
    ranks = (max(world.ranks),) * len(world.ranks)
    run = play(pipeline, replace(world, ranks=ranks, wire="float32"), same_data=True)
    for round, server in enumerate(run.servers[1:], start=1):
        result = pipeline.method.result(server.state)
        accepted = run.accepted(round)
        if result is None or not accepted or run.servers[round - 1].last_seen_rounds.keys() - {c.id for c in accepted}:
            continue
        if len({run.exchange(round, client.id)[0].client.rank for client in accepted}) > 1:
            continue
        _, trained = run.trained(round, accepted[0].id)
        uploaded = effective(trained.start, run.world.spec)
        for module, found in effective(result, run.world.spec).items():
            close(
                found,
                uploaded[module],
                f"round {round}, {module}: the delta of identical clients",
                pipeline.facts.idempotence_tolerance or 0.0,
            )


def latecomer(pipeline: Pipeline, world: World) -> None:
    """A client that joins at round t ends on the same base + adapter as the others."""
    run = observed(pipeline, world)
    server, wire = run.servers[-1], run.federation.spec.wire
    for client in run.world.clients:
        if client.id not in server.last_seen_rounds:
            continue
        member = replace(client, last_seen_round=server.last_seen_rounds[client.id])
        member = replace(member, rank=pipeline.method.rank(server.state, member))
        kept = run.client_states[-1].get(client.id)
        models = []
        for recipient, client_state in (
            (member, kept[-1].kept if kept else {}),
            (replace(member, last_seen_round=None), {}),
        ):
            payload = cast_floats(pipeline.method.dispatch(server.state, recipient, server.round + 1), wire)
            model = pipeline.method.receive(cast_floats(payload, torch.float32), client_state, recipient, world.spec)
            models.append(effective(model, world.spec))
        for module, value in models[0].items():
            require(value.equal(models[1][module]), f"a newcomer's {module} is not that of {client.id}")


LAWS: tuple[Law, ...] = (
    Law("agreement", "direct = through bytes = any client batches, bit for bit", agreement),
    Law("order", "who is listed or answers first changes nothing, bit for bit", order),
    Law("repetition", "same seed, same bits", repetition),
    Law("resume", "kill and resume from bytes, same bits", resume),
    Law("weights", "only the ratio of examples counts", weights, lambda p: p.facts.example_weighted),
    Law("exactness", "the aggregate is what the method declares", exactness, lambda p: p.facts.exact != "no"),
    Law("privacy of sides", "what is private never leaves its client", sides),
    Law("absence", "who is away keeps its client state; an unowned slot its value", absence),
    Law("bytes", "counted bytes = bytes sent", bytes_counted),
    Law("ranks", "slots up within the rank; slots down as declared", ranks),
    Law("validation", "updates are what the method expects; nothing else is let in", upload_validation),
    Law("idempotence", "equal updates come back", idempotence, lambda p: p.facts.idempotence_tolerance is not None),
    Law("stages", "what a stage promises holds of whole updates, heads included", stages, lambda p: bool(p.stages)),
    Law("sums", "equal sums, equal result", sums, lambda p: p.facts.consumes != "individual"),
    Law("hooks", "behind a stage that changes nothing, every hook counts", hooks),
    Law("ranks once", "a method's ranks are applied once", ranks_once, lambda p: p.facts.mixed_ranks),
    Law("latecomer", "a newcomer gets the same model", latecomer, lambda p: not p.facts.private_sides),
)
