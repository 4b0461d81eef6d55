"""Validation: what is wrong with an upload is named, and its client is as good as absent."""

import json
import random
import struct
import tracemalloc
from dataclasses import dataclass, replace

import pytest
import torch
from framing import message_of, parts

from fedlora.core.adapter import AdapterSpec
from fedlora.core.payload import to_bytes
from fedlora.core.rounds import Client, Failure, Order, Reply
from fedlora.core.schema import ReplySchema, UploadSchema, tensor_specs
from fedlora.core.update import Update
from fedlora.errors import FedloraError, PayloadError, QuorumError
from fedlora.federation import local
from fedlora.federation.collect import Collector
from fedlora.federation.frame import MOST_ENVELOPE, Encoded
from fedlora.federation.local import LocalTransport
from fedlora.federation.pipeline import Pipeline
from fedlora.federation.record import client_line
from fedlora.federation.server import Federation, Plan, begin, federate
from fedlora.federation.settings import ClientsSettings, EvaluateSettings
from fedlora.federation.validate import received, validate_reply
from fedlora.federation.wire import decode_answer, encode_reply
from fedlora.laws.standin import StandIn
from fedlora.laws.world import World, play
from fedlora.methods.base import Method
from fedlora.methods.fedit import FedIT
from fedlora.methods.fedsa import FedSA
from fedlora.methods.flora import FLoRA
from fedlora.methods.hetlora import HetLoRA
from fedlora.methods.lora_a2 import LoRAA2
from fedlora.methods.replicate import Replicate

SHAPES = {"a": (5, 7), "b": (6, 4)}
CLIENTS = tuple(Client(f"c{k}", 3 + k, 2) for k in range(4))
BAD = "c2"


def run(method, clients=CLIENTS, rounds=2, norm_limit=1e6, through_bytes=True, evaluate_every=0, state=None):
    spec = AdapterSpec(SHAPES, 2, 1.0, head="shared")
    trainer = StandIn(spec, seed=1)
    transport = LocalTransport(clients, Pipeline(method), trainer, through_bytes=through_bytes)
    plan = Plan(rounds, clients=ClientsSettings(norm_limit=norm_limit), evaluate=EvaluateSettings(every=evaluate_every))
    own = Federation(Pipeline(method), spec, transport, plan, trainer)
    return list(federate(own, state or begin(own, trainer.head)))


@dataclass(frozen=True)
class Altered:
    """An update whose payload is made into something else on its way."""

    update: Update
    alter: object
    head: object = None

    def to_payload(self):
        payload = replace(self.update, head=self.head).to_payload()
        return {**payload, "adapter": self.alter(payload.get("adapter", {}))}


@dataclass(frozen=True)
class Sends:
    """A method around a method, whose one client alters what it uploads."""

    inner: Method
    alter: object

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def client(self, payload, kept, client, spec, round):
        outcome = yield from self.inner.client(payload, kept, client, spec, round)
        return replace(outcome, update=Altered(outcome.update, self.alter)) if client.id == BAD else outcome


def side(payload, name, **changes):
    return {**payload, name: {**payload[name], **changes}}


def slot(payload, module, **changes):
    (name,) = payload
    return side(payload, name, **{module: {**payload[name][module], **changes}})


def numbered(payload, *numbers):
    """Slots of module b with these numbers, and as many vectors."""
    slots, values = torch.tensor(numbers).to(torch.uint8), torch.ones(6, len(numbers))
    return {"output": {"b": {"slots": slots, "values": values}}}


WRONG = [
    (FedIT(), lambda p: {**p, "more": {}}, "'more', which was not ordered"),
    (FedIT(), lambda p: side(p, "input", c=torch.ones(2, 2)), "'c' under 'input', which was not ordered"),
    (FedIT(), lambda p: {"input": p["input"]}, "no tensor 'a' under 'output'"),
    (FedIT(), lambda p: {"input": p["output"], "output": p["input"]}, "'a' under 'input' is (5, 2) of float32, not (2, 7)"),
    (FedIT(), lambda p: side(p, "input", a=torch.ones(3, 7)), "'a' under 'input' is (3, 7) of float32, not (2, 7) of float32"),
    (FedIT(), lambda p: side(p, "input", a=torch.ones(2, 7).int()), "'a' under 'input' is (2, 7) of int32, not (2, 7)"),
    (FedIT(), lambda p: side(p, "input", a={"deep": 1}), "no tensor 'a' under 'input'"),
    (FedIT(), lambda p: side(p, "input", a=torch.full((2, 7), torch.nan)), "not finite"),
    (FedIT(), lambda p: side(p, "input", a=torch.full((2, 7), -torch.inf)), "not finite"),
    (FedIT(), lambda p: side(p, "input", a=torch.full((2, 7), 1e6)), "a norm of 3.74e+06, more than 1e+06"),
    (FedIT(), lambda p: side(p, "input", a=torch.full((2, 7), 1e30)), "a norm of inf, more than 1e+06"),
    (FedIT(), lambda p: {**p, "score": 0.5}, "'score', which was not ordered"),
    (FedIT(), lambda p: {**p, "x" * 200: 1}, f"'{'x' * 80}...', which was not ordered"),
    (Replicate(promote=0.5, start_rank=1), lambda p: {**p, "score": 1.5}, "'score' is no number from 0 to 1"),
    (Replicate(promote=0.5, start_rank=1), lambda p: {**p, "score": True}, "'score' is no number from 0 to 1"),
    (HetLoRA(), lambda p: side(p, "output", a=p["output"]["a"][:, :1]), "'a' under 'output' is (5, 1)"),
    (LoRAA2(), lambda p: numbered(p, 16), "slots of 'b' that are not rising numbers below 16"),
    (LoRAA2(), lambda p: numbered(p, 3, 3), "slots of 'b' that are not rising numbers below 16"),
    (LoRAA2(), lambda p: numbered(p, 3, 2), "slots of 'b' that are not rising numbers below 16"),
    (LoRAA2(), numbered, "0 slots of 'b', of 16"),
    (LoRAA2(), lambda p: numbered(p, 1, 2, 3, 4, 5), "slots under 'output' that cost 5, more than the budget of 4"),
    (LoRAA2(), lambda p: {"output": {"b": torch.ones(6, 1)}}, "'b' should hold a mapping"),
    (LoRAA2(), lambda p: {"output": {"c": {}}}, "'c' under 'output', which was not ordered"),
    (LoRAA2(), lambda p: {"input": p["output"]}, "'input', which was not ordered"),
    (LoRAA2(), lambda p: slot(numbered(p, 1), "b", slots=torch.tensor([-1])), "slots of 'b' are (1,) of int64, not (1,) of uint8"),
    (LoRAA2(), lambda p: slot(numbered(p, 1), "b", values=torch.ones(6, 2)), "values of 'b' are (6, 2) of float32, not (6, 1)"),
    (LoRAA2(), lambda p: slot(numbered(p, 1), "b", values=1.0), "'b' under 'output' does not hold slots and values"),
]  # fmt: skip


@pytest.mark.parametrize("through_bytes", [True, False])
@pytest.mark.parametrize(("method", "alter", "reason"), WRONG, ids=lambda own: own if isinstance(own, str) else "")
def test_what_is_wrong_is_named_and_the_client_is_absent(method, alter, reason, through_bytes):
    steps = run(Sends(method, alter), rounds=1, through_bytes=through_bytes)
    ((server, record),) = steps
    told = {line["client"]: line for line in (client_line(own, record.scoring) for own in record.clients)}
    assert told[BAD]["status"].startswith(f"refused: {reason}")
    assert told[BAD]["parameters_up"] == 0
    assert told[BAD]["bytes_up"] > 0  # it was sent, and counts
    assert [client for client, line in told.items() if line["status"] == "accepted"] == ["c0", "c1", "c3"]
    assert BAD not in server.last_seen_rounds
    ((alone, _),) = run(method, clients=[client for client in CLIENTS if client.id != BAD], rounds=1)
    assert to_bytes(server.state.to_payload()) == to_bytes(alone.state.to_payload())
    assert server.state.head["head"].equal(alone.state.head["head"])


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (lambda e, p: (e, p[:-1]), "tensors that do not fill the payload"),
        (lambda e, p: (e, p + bytes(20_000)), "bytes, more than the"),
        (lambda e, p: (e, b""), "no tensor 'a' under 'input'"),
        (lambda e, p: (e, b"\xff" * 8 + p[8:]), "a header longer than the payload"),
        (lambda e, p: (e.replace(b'"c2"', b'"c1"'), p), "a reply of 'c1'"),
        (lambda e, p: (e.replace(b'"round": 1', b'"round": 2'), p), "a reply to another round"),
        (lambda e, p: (e.replace(b'"steps"', b'"other"'), p), "this is no reply"),
        (lambda e, p: (b'{"a":' * 99_999, p), "no JSON, or nested too deeply"),
        (lambda e, p: (e + b" " * MOST_ENVELOPE, p), "an envelope of"),
        (lambda e, p: (e.replace(b'"notes": {}', b'"notes": {"a": [[[[[[[[1]]]]]]]]}'), p), "notes that are nested too"),
        (lambda e, p: (e.replace(b'"notes": {}', b'"notes": {"a": 1e999}'), p), "no JSON"),
        (lambda e, p: (e.replace(b'"notes": {}', b'"notes": {"\\ud800": 1}'), p), "half a surrogate pair"),
        (lambda e, p: (e.replace(b'"score": null', b'"score": {"examples":1,"sums":{}}'), p), "a score where"),
    ],
)  # fmt: skip
def test_bytes_of_a_stranger(monkeypatch, alter, reason):
    def sent(reply):
        honest = encode_reply(reply)
        if reply.client != BAD or reply.score is not None:
            return honest
        told, payload = alter(*parts(honest))
        return Encoded(message_of(told, payload), len(payload))

    monkeypatch.setattr(local, "encode_reply", sent)
    (_, record), *_ = run(FedIT(), rounds=1)
    (own,) = [client for client in record.clients if client.client == BAD]
    assert own.status.startswith("refused: ")
    assert reason in own.status
    assert len(own.status) < 200
    assert record.accepted == 3


def test_a_head_that_was_not_ordered():
    order = Order(
        "train", 1, CLIENTS[0], {}, schema=ReplySchema(UploadSchema(), tensor_specs({"w": (2,)}, torch.float32))
    )
    for head, reason in (
        ({}, "no tensor 'w' under 'head'"),
        ({"w": torch.ones(3)}, "'w' under 'head' is (3,) of float32, not (2,)"),
        ({"w": torch.ones(2), "v": torch.ones(2)}, "'v' under 'head', which was not ordered"),
        ({"w": torch.full((2,), torch.nan)}, "not finite"),
    ):
        found = validate_reply(Reply("c0", 1, {"head": head}), order)
        assert isinstance(found, Failure)
        assert found.reason.startswith(f"refused: {reason}")
    assert isinstance(validate_reply(Reply("c0", 1, {"head": {"w": torch.ones(2)}}), order), Reply)


def test_a_round_in_which_all_are_refused_is_a_fault():
    alter = Sends(FedIT(), lambda p: {})
    alone = [client for client in CLIENTS if client.id == BAD]
    with pytest.raises(
        FedloraError, match="Round 1: every client failed; client c2 with refused: no tensor 'a' under 'input'"
    ):
        run(alter, clients=alone)
    ((begun, _),) = run(FedIT(), clients=alone, rounds=1)
    with pytest.raises(QuorumError, match="Round 2: every client failed; client c2 with refused"):
        run(alter, clients=alone, rounds=3, state=begun)


def test_a_score_that_cannot_be_is_left_out(monkeypatch):
    def sent(reply):
        told, payload = parts(encode_reply(reply))
        if reply.client == BAD and reply.score is not None:
            fields = json.loads(told)
            fields["score"]["sums"]["close"] = 10**9
            told = json.dumps(fields).encode()
        return Encoded(message_of(told, payload), len(payload))

    monkeypatch.setattr(local, "encode_reply", sent)
    ((_, record),) = run(FedIT(), rounds=1)
    assert [client.client for client in record.clients if client.score is None] == [BAD]
    assert record.personal.count == 3


def test_the_norm_limit_is_the_plans():
    ((_, record),) = run(FedIT(), rounds=1, norm_limit=1e3)
    assert record.accepted == 4
    with pytest.raises(FedloraError, match=r"refused: a norm of .*, more than 0\.001"):
        run(FedIT(), rounds=1, norm_limit=1e-3)


def test_a_long_reason_is_cut():
    order = Order("train", 1, CLIENTS[0], {}, schema=ReplySchema(UploadSchema()))
    collector = Collector([order])
    assert list(collector.updates([Failure("c0", 1, "x" * 10**6)])) == []
    assert len(collector.records["c0"].status) == 500


def bomb(text, rest=b""):
    return struct.pack("<Q", len(text)) + text + rest


def test_nothing_is_made_before_it_is_known_to_be_ordered():
    """Fifty megabytes where kilobytes were ordered; headers of junk where megabytes of tensors were; shapes that no
    bytes stand behind."""
    small = ReplySchema(UploadSchema(({"output": tensor_specs({"a": (9, 9)}, torch.float32)},)))
    large = ReplySchema(UploadSchema(({"output": tensor_specs({"a": (3000, 3000)}, torch.float32)},)))
    shape = '{"0":{"dtype":"F32","shape":[%s],"data_offsets":[0,0]},"__metadata__":{"tree":"{}"}}'
    told, _ = parts(encode_reply(Reply("c0", 1)))
    for schema, payload in (
        (small, to_bytes({"adapter": {"output": {"a": torch.zeros(50 * 2**18)}}})),
        (large, bomb(b"[" + b"[]," * (10 * 2**20) + b"0]")),
        (large, bomb(b"[" * 30 * 2**20)),
        (large, bomb((shape % "1073741824,1073741824").encode())),
        (large, bomb((shape % "0,281474976710656,281474976710656").encode())),
    ):
        order = Order("train", 1, CLIENTS[0], {}, schema=schema)
        message = message_of(told, payload)
        tracemalloc.start()
        found = received(order, message)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert isinstance(found, Failure)
        assert found.kind == "refused"
        assert peak < 2**20, f"{found.reason}: {peak} bytes"


@pytest.mark.parametrize(
    "envelope",
    [
        b"", b"null", b"[]", b"{}", b"\xff", b"[" * 10**6, b"9" * 9999, b'{"client":1}',
        b'{"client":"c","round":true,"steps":0,"loss":null,"score":null,"notes":{}}',
        b'{"client":"c","round":1,"steps":0,"loss":NaN,"score":null,"notes":{}}',
        b'{"client":"c","round":1,"steps":0,"loss":null,"score":[],"notes":{}}',
        b'{"client":"c","round":1,"steps":0,"loss":null,"score":{"examples":1},"notes":{}}',
        b'{"client":"c","round":1,"round":1,"steps":0,"loss":null,"score":null,"notes":{}}',
        b'{"client":"c","round":1,"steps":0,"loss":null,"score":null,"notes":{},"payload":{}}',
    ],
)  # fmt: skip
def test_an_envelope_that_is_none(envelope):
    with pytest.raises(PayloadError):
        decode_answer(message_of(envelope, b""))


@pytest.mark.parametrize("method", [LoRAA2(), FedSA(), FLoRA(), HetLoRA()], ids=lambda own: own.name)
def test_a_third_of_all_uploads_corrupted_is_a_third_lost(monkeypatch, method):
    """Twenty clients, six rounds: the same servers and client states, bit for bit."""
    rng, nobody = random.Random(3), frozenset()
    places = [(round, client) for round in range(1, 7) for client in range(20)]
    third = frozenset(rng.sample(places, 40))
    ranks = [1 + k % 3 for k in range(20)] if method.facts.mixed_ranks else [2] * 20
    world = World(((5, 7), (6, 4)), tuple(ranks), tuple(range(3, 23)), 6, nobody, third, 1.0, "shared", "float32", 1)
    lost = play(Pipeline(method), world)

    def sent(reply):
        told, payload = parts(encode_reply(reply))
        if (reply.round, int(reply.client[1:])) in third:
            at = rng.randrange(8, 12)
            payload = rng.choice(
                (payload[:-5], payload + b"1", payload[:at] + b"?" + payload[at + 1 :], b"", payload[9:])
            )
        return Encoded(message_of(told, payload), len(payload))

    monkeypatch.setattr(local, "encode_reply", sent)
    corrupted = play(Pipeline(method), replace(world, lost=nobody))
    assert corrupted.fingerprint() == lost.fingerprint()
    told = [own.status for record in corrupted.records for own in record.clients]
    assert sum(status.startswith("refused: ") for status in told) == 40
    assert told.count("accepted") == 80


@pytest.mark.parametrize("method", [FedIT(), LoRAA2(), LoRAA2(criterion="contribution-per-byte")], ids=repr)
def test_the_size_limit_is_near_what_an_honest_client_can_send(method):
    """Forty-eight maps of RoBERTa-base: the largest upload fits, and little more would."""
    names = ("attention.self.query", "attention.self.value", "intermediate.dense", "output.dense")
    shapes = {f"röberta.encoder.layer.{layer}.{name}": (768, 768) for layer in range(12) for name in names}
    spec = AdapterSpec(shapes, 8, 1.0)
    client, state = Client("c", 1, 8), method.init(spec, 0)
    head = tensor_specs({"w": (77, 768)}, torch.float32)
    schema = ReplySchema(method.upload_schema(state, client, spec, 1), head)
    if isinstance(method, LoRAA2):
        slots = torch.arange(8, dtype=torch.uint8)
        entries = {module: {"slots": slots.clone(), "values": torch.ones(768, 8)} for module in shapes}
        upload = {"output": entries}
    else:
        upload = {side: dict(state.adapter.side(side)) for side in ("input", "output")}
    payload = to_bytes({"adapter": upload, "head": {"w": torch.ones(77, 768)}})
    order = Order("train", 1, client, {}, schema=schema)
    opened = received(order, message_of(parts(encode_reply(Reply("c", 1)))[0], payload))
    assert isinstance(opened, Reply)
    assert isinstance(validate_reply(opened, order), Reply)
    assert len(payload) < schema.most_bytes() < 1.1 * len(payload)
