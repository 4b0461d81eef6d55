"""Replies with something wrong in them, by the thousand, and a slow judge that shares no code with validation.

python tests/federation/mutants.py OUT.json [COUNT] [SEED]

Every mutant goes to validation as a stranger's bytes would. What is let in is judged again from its bytes alone
with `json` and `numpy` against rules written here by hand, compared with what validation handed on, and given to
the method's own `aggregate`, whose result must be finite.
"""

import json
import math
import random
import re
import resource
import struct
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from framing import message_of, parts

from fedlora.core.metrics import Score
from fedlora.core.payload import cast_floats, from_bytes, to_bytes, walk_tensors
from fedlora.core.rounds import Client, Order, Reply
from fedlora.core.schema import ReplySchema, UploadSchema
from fedlora.core.update import Update
from fedlora.errors import PayloadError
from fedlora.federation import validate
from fedlora.federation.pipeline import Pipeline
from fedlora.federation.wire import decode_answer, encode_reply
from fedlora.laws.standin import SCORING
from fedlora.laws.world import World, play
from fedlora.methods.fedit import FedIT
from fedlora.methods.fedsa import FedSA
from fedlora.methods.flora import FLoRA
from fedlora.methods.full import Full
from fedlora.methods.hetlora import HetLoRA
from fedlora.methods.local import Local
from fedlora.methods.lora_a2 import LoRAA2
from fedlora.methods.replicate import Replicate
from fedlora.methods.rolora import RoLoRA

SHAPES = ((5, 7), (6, 4), (4, 4))
POOL = 6
NORM = 1e6
NUMPY = {"F32": "<f4", "U8": "u1", "F64": "<f8", "F16": "<f2", "I16": "<i2", "I32": "<i4", "I64": "<i8", "BOOL": "?"}


@dataclass(frozen=True, eq=False)
class Case:
    """An honest reply as bytes, what was ordered, and the server that ordered it."""

    rule: str
    method: object
    state: object
    order: Order
    envelope: bytes
    payload: bytes


def cases():
    """Honest replies of several methods, kinds of adapter, heads and wires."""
    found = []
    for rule, method, kind, head, wire in (
        ("slots", LoRAA2(pool_rank=POOL), "lora", "shared", "float32"),
        ("bytes", LoRAA2(pool_rank=POOL, criterion="contribution-per-byte"), "lora", "frozen", "bfloat16"),
        ("same", FedSA(), "lora", "private", "float32"),
        ("same", RoLoRA(), "lora", "shared", "float32"),
        ("same", FLoRA(), "lora", "frozen", "bfloat16"),
        ("same", FedIT(), "vera", "shared", "bfloat16"),
        ("same", Full(), "dense", "frozen", "float32"),
        ("same", Local(), "lora", "shared", "float32"),
        ("pruned", HetLoRA(), "lora", "shared", "float32"),
        ("score", Replicate(promote=0.5, start_rank=2), "lora", "frozen", "float32"),
    ):
        ranks = (3, 2) if method.facts.mixed_ranks and kind == "lora" else (2, 2)
        nobody = frozenset()
        run = play(Pipeline(method), World(SHAPES, ranks, (5, 4), 3, nobody, nobody, 1.0, head, wire, 1, kind))
        for (round, client), reply in run.transport.replies.items():
            order, _ = run.exchange(round, client)
            found.append(Case(rule, method, run.servers[round - 1].state, order, *parts(encode_reply(reply))))
    for client in ("c0", "c1", "c2"):
        schema = ReplySchema(UploadSchema(), scoring=SCORING)
        asked = Order("evaluate", 3, Client(client, 5, 2), {}, schema=schema)
        reply = Reply(client, 3, score=Score(9, {"close": 4, "loss": 3.25}))
        found.append(Case("score alone", None, None, asked, *parts(encode_reply(reply))))
    return found


# -------------------------------------------------------------------------------------------------- mutants


def flipped(rng, data):
    """Some bits the other way round."""
    own = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8)) if own else 0):
        own[rng.randrange(len(own))] ^= 1 << rng.randrange(8)
    return bytes(own)


def split_file(data):
    """Header fields, tree and tensor bytes of a payload of ours."""
    size = struct.unpack("<Q", data[:8])[0]
    fields = json.loads(data[8 : 8 + size])
    return fields, json.loads(fields["__metadata__"]["tree"]), data[8 + size :]


def joined(fields, tree, rest, length=None):
    """The inverse of `split_file`, whatever is in it; `length` is what the file says of its header."""
    told = dict(fields)
    if tree is not None:
        told["__metadata__"] = {"tree": tree if isinstance(tree, str) else json.dumps(tree)}
    text = json.dumps(told).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + rest


ODD = (
    0,
    -1,
    1,
    2,
    3,
    7,
    10**400,
    2**31,
    2**40,
    2**63,
    2**64,
    -(2**63),
    10**30,
    1.5,
    True,
    None,
    "3",
    [],
    {},
    [[1]],
    1e300,
)


def header_edited(rng, data):
    """One entry of the header says something else than what is there."""
    fields, tree, rest = split_file(data)
    names = [name for name in fields if name != "__metadata__"]
    name = rng.choice(names)
    entry = dict(fields[name])
    key = rng.choice(("dtype", "shape", "data_offsets", "shape", "entry", "drop", "more", "metadata"))
    if key == "dtype":
        entry["dtype"] = rng.choice((*NUMPY, "BF16", "F8_E4M3", "C64", "F4", "U64", "", "f32", 3, None))
    elif key in ("shape", "data_offsets"):
        own = list(entry[key])
        change = rng.randrange(4)
        if change == 0 and own:
            own[rng.randrange(len(own))] = rng.choice(ODD)
        elif change == 1:
            own.insert(rng.randint(0, len(own)), rng.choice((0, 1, 1, 2, 2**40)))
        elif change == 2:
            own = own[::-1]
        entry[key] = own if change < 3 else rng.choice(ODD)
    fields[name] = rng.choice((entry, entry, *ODD)) if key == "entry" else entry
    if key == "drop":
        del fields[name]
    if key == "more":
        fields["extra"] = rng.choice((entry, {"dtype": "F32", "shape": [0, 2**47], "data_offsets": [0, 0]}))
    if key == "metadata":
        fields["__metadata__"] = rng.choice(ODD)
        tree = None
    return joined(fields, tree, rest)


def length_lies(rng, data):
    """The first eight bytes say another length."""
    told = rng.choice((0, 1, 2**16, 2**32, 2**63, 2**64 - 1, len(data), len(data) - 8, rng.randrange(len(data))))
    return struct.pack("<Q", told) + data[8:]


def tree_edited(rng, data):
    """The tree is another: sides swapped, modules renamed, left out or doubled, references elsewhere."""
    fields, tree, rest = split_file(data)
    adapter = tree.get("adapter", tree)
    change = rng.randrange(10)
    side = rng.choice(list(adapter))
    modules = adapter[side] if isinstance(adapter[side], dict) else {}
    if change == 0:
        renamed = {"input": "output", "output": "input"}
        tree["adapter"] = {renamed.get(key, key): value for key, value in adapter.items()}
    elif change == 1 and modules:
        modules[rng.choice(("module9", "", "\ud800", "$tensor", "x" * 500))] = modules.pop(rng.choice(list(modules)))
    elif change == 2 and modules:
        del modules[rng.choice(list(modules))]
    elif change == 3 and modules:
        modules["module9"] = modules[rng.choice(list(modules))]
    elif change == 4 and len(modules) > 1:
        one, other = rng.sample(list(modules), 2)
        modules[one], modules[other] = modules[other], modules[one]
    elif change == 5:
        tree[rng.choice(("more", "adapter", "head", "score"))] = rng.choice((*ODD, {"$tensor": "99"}, {"$tensor": []}))
    elif change == 6:
        adapter[rng.choice(("more", "input", "output", "score"))] = rng.choice((*ODD, float("nan"), "0"))
    elif change == 7:
        tree = rng.choice((*ODD, "[" * 9, '{"a": 1, "a": 2}', "null", '{"adapter": 1e999}'))
    elif change == 8 and modules:
        modules[rng.choice(list(modules))] = rng.choice((*ODD, {"$tensor": "0"}, {"slots": {"$tensor": "0"}}))
    else:
        deep = rng.choice((20, 900, 5000))
        tree = '{"adapter":' * deep + "1" + "}" * deep
    return joined(fields, tree, rest)


def rebuilt(rng, data):
    """A true payload with another tensor in it: shapes, types, slot numbers, values."""
    payload = from_bytes(data)
    leaves = []

    def walk(tree):
        for key, value in tree.items():
            if isinstance(value, torch.Tensor):
                leaves.append((tree, key))
            elif isinstance(value, dict):
                walk(value)

    walk(payload)
    slots = [(tree, key) for tree, key in leaves if key == "slots"]
    tree, key = rng.choice(slots) if slots and rng.random() < 0.4 else rng.choice(leaves)
    own = tree[key]
    if key == "slots":
        change, at = rng.randrange(7), rng.randrange(len(own))
        numbers = own.tolist()
        if change == 0:
            numbers[at] = rng.choice((POOL, 200, 255))
        elif change == 1:
            numbers[at] = numbers[rng.randrange(len(numbers))]
        elif change == 2:
            numbers = numbers[::-1]
        elif change == 3:
            numbers.append(POOL - 1)
            tree["values"] = torch.cat([tree["values"]] * 2, dim=rng.randrange(2))
        elif change == 4:
            whole_pool(payload["adapter"])
            return to_bytes(payload)
        types = (torch.int16, torch.int32, torch.int64, torch.float32, torch.bool)
        dtype = rng.choice(types) if change == 5 else own.dtype
        tree[key] = (
            torch.tensor([-1] * len(numbers), dtype=torch.int8) if change == 6 else torch.tensor(numbers).to(dtype)
        )
        return to_bytes(payload)
    change = rng.randrange(9)
    if change == 0:
        tree[key] = own.to(rng.choice((torch.float64, torch.float16, torch.bfloat16, torch.float32, torch.int32)))
    elif change == 1:
        tree[key] = torch.zeros([max(0, size + rng.choice((-1, 0, 1))) for size in own.shape], dtype=own.dtype)
    elif change == 2:
        tree[key] = torch.zeros(rng.choice(((), (0,), (0, 0), (1,), (1, 1, 1), (40, 40))), dtype=own.dtype)
    elif change == 3:
        tree[key] = own.T.contiguous() if own.ndim == 2 else own[:-1]
    elif change == 4:
        wrong = own.clone().flatten()
        wrong[rng.randrange(max(1, wrong.numel()))] = rng.choice((math.nan, math.inf, -math.inf))
        tree[key] = wrong.reshape(own.shape)
    elif change == 5:
        tree[key] = own + rng.choice((1e5, 1e7, 1e20, 3e38, -1e30))
    elif change == 6:
        del tree[key]
    elif change == 7:
        tree[rng.choice(("more", "module9"))] = own.clone()
    else:
        tree[key] = (own.float() * rng.uniform(-2, 2)).to(own.dtype)
    return to_bytes(payload)


def whole_pool(adapter):
    """Every slot of every module that was chosen at all, and of all modules: more than any budget."""
    for side, entries in adapter.items():
        wire = next(iter(entries.values()))["values"].dtype
        for number, (d_out, d_in) in enumerate(SHAPES):
            size = (POOL, d_in) if side == "input" else (d_out, POOL)
            slots = torch.arange(POOL, dtype=torch.uint8)
            entries[f"module{number}"] = {"slots": slots, "values": torch.ones(size, dtype=wire)}


def worth_less(rng, data):
    """Other numbers of the same size: what any client may send."""
    payload = from_bytes(data)
    for tensor in walk_tensors(payload):
        if tensor.is_floating_point():
            tensor.mul_(rng.uniform(-1, 1))
    return to_bytes(payload)


def envelope_edited(rng, envelope):
    """The envelope says something else."""
    fields = json.loads(envelope)
    change = rng.randrange(6)
    key = rng.choice(list(fields))
    if change == 0:
        fields[key] = rng.choice((*ODD, math.nan, math.inf, "c1", "c0", 2**70, -5))
    elif change == 1:
        del fields[key]
    elif change == 2:
        fields[rng.choice(("more", "payload", "traffic", "__class__"))] = rng.choice(ODD)
    elif change == 3:
        numbers = (0, 1, 4, 9, 2.5, -1, -7, 2**60, math.inf, rng.choice(ODD))
        names = rng.choice((("close", "loss"), ("close",), (), ("close", "loss", "more")))
        sums = {name: rng.choice(numbers) for name in names}
        fields["score"] = {"examples": rng.choice(numbers), "sums": rng.choice((sums, sums, sums, rng.choice(ODD)))}
    elif change == 4:
        fields["notes"] = rng.choice(
            ({"a": [[[[[[[[[1]]]]]]]]]}, {"x": math.nan}, {"\ud800": 1}, {"a": 10**400}, {"a": [1, "b"]})
        )
    else:
        return rng.choice((b"", b"null", b"[]", b"\xff\xfe", b'{"a":1,"a":2}', b"1" * 5000, envelope[:-1], b"{" * 99))
    return json.dumps(fields).encode()


def giant(rng, case):
    """Much: brackets, keys, tensors, notes, bytes."""
    change, many = rng.randrange(7), rng.choice((20_000, 100_000))
    envelope, payload = case.envelope, case.payload
    if change == 0:
        envelope = envelope.replace(b'"notes": {', b'"notes": {"n": [' + b"1," * (12 * many) + b"1],", 1)
    elif change == 1:
        envelope = envelope.replace(b'"notes": {', b'"notes": {"n": ' + b"[" * many + b"]" * many + b",", 1)
    elif change == 2:
        text = b'{"__metadata__":{"tree":"' + b"[" * many + b'"}}'
        payload = struct.pack("<Q", len(text)) + text
    elif change == 3:
        text = b"[" * many
        payload = struct.pack("<Q", len(text)) + text
    elif change == 4:
        empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
        tensors = {str(number): empty for number in range(many // 10)}
        payload = joined(tensors, {key: {"$tensor": key} for key in tensors}, b"")
    elif change == 5:
        payload += bytes(many)
    else:
        payload = to_bytes({"adapter": {"input": {"module0": torch.zeros(many)}}})
    return envelope, payload


def mutant(rng, case, corpus):
    """(kind, envelope, payload): one mutant of a case."""
    other = rng.choice(corpus)
    kinds = ("bit flips", "truncated", "extended", "spliced", "of another order", "length", "header", "tree", "tensor")
    kind = rng.choice((*kinds, "tensor", "tree", "header", "envelope", "envelope bits", "values"))
    envelope, payload = case.envelope, case.payload
    if rng.random() < 0.004:
        return "giant", *giant(rng, case)
    if kind == "envelope":
        return kind, envelope_edited(rng, envelope), payload
    if kind == "envelope bits":
        return kind, flipped(rng, envelope), payload
    if kind == "of another order":
        return kind, *rng.choice(
            ((other.envelope, other.payload), (envelope, other.payload), (other.envelope, payload))
        )
    if kind == "spliced":
        return (
            kind,
            envelope,
            payload[: rng.randint(0, len(payload))] + other.payload[rng.randint(0, len(other.payload)) :],
        )
    if kind == "extended":
        return kind, envelope, payload + rng.choice((b"\0", bytes(64), payload, rng.randbytes(rng.randint(1, 99))))
    if not payload:
        return "bit flips", envelope, rng.randbytes(rng.randint(1, 99))
    if kind == "truncated":
        return kind, envelope, payload[: rng.randrange(len(payload))]
    made = {"bit flips": flipped, "length": length_lies, "header": header_edited, "tree": tree_edited}
    made |= {"tensor": rebuilt, "values": worth_less}
    return kind, envelope, made[kind](rng, payload)


# ---------------------------------------------------------------------------------------------------- judge


def plain(payload):
    """A payload as nested (type, shape, values), read with json and numpy alone."""
    if not payload:
        return {}
    size = int.from_bytes(payload[:8], "little")
    fields = json.loads(payload[8 : 8 + size])
    rest, tree, used = payload[8 + size :], json.loads(fields["__metadata__"]["tree"]), []

    def tensor(name):
        used.append(name)
        entry = fields[name]
        first, last = entry["data_offsets"]
        if entry["dtype"] == "BF16":
            half = numpy.frombuffer(rest[first:last], "<u2").astype("<u4") << 16
            return entry["dtype"], tuple(entry["shape"]), half.astype("<u4").view("<f4").reshape(entry["shape"])
        values = numpy.frombuffer(rest[first:last], NUMPY[entry["dtype"]])
        return entry["dtype"], tuple(entry["shape"]), values.reshape(entry["shape"])

    def walk(own):
        if isinstance(own, dict):
            return tensor(own["$tensor"]) if set(own) == {"$tensor"} else {key: walk(v) for key, v in own.items()}
        return own

    found = walk(tree)
    assert sorted(used) == sorted(set(fields) - {"__metadata__"}), "a tensor used twice, or not at all"
    return found


def forms(tree):
    """Path -> (type, shape), and every other leaf as it is; empty mappings are nothing."""
    result = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            result |= {(key, *path): own for path, own in forms(value).items()}
        else:
            result[key,] = value[:2] if isinstance(value, tuple) else value
    return result


def judge(case, envelope, payload):
    """Why this should not be let in; None: it is harmless."""
    told = json.loads(envelope)
    wanted = (case.order.client.id, case.order.round)
    if (told["client"], told["round"]) != wanted or set(told) != set(json.loads(case.envelope)):
        return "another order's"
    if not isinstance(told["notes"], dict) or len(envelope) > 2**20 or isinstance(told["round"], bool):
        return "notes"
    json.dumps(told["notes"], ensure_ascii=False).encode()  # or it could not be written down
    if told["loss"] is not None and (isinstance(told["loss"], bool) or not math.isfinite(told["loss"])):
        return "loss"
    if case.rule == "score alone":
        examples, sums = told["score"]["examples"], told["score"]["sums"]
        known = set(sums) <= {"close", "loss"} and all(math.isfinite(value) for value in sums.values())
        good = known and 0 <= sums.get("close", 0) <= examples and sums.get("loss", 0) >= 0 and not payload
        return None if good else "score"
    if told["score"] is not None:
        return "a score"
    honest, found = plain(case.payload), plain(payload)
    floats = [values.astype("f8") for dtype, _, values in leaves(found) if dtype in ("F32", "BF16")]
    squares = [float(numpy.square(values).sum()) for values in floats]
    if not math.isfinite(sum(squares)) or math.sqrt(sum(squares)) > NORM * 1.0001:
        return "norm"
    if forms({"head": found.get("head", {})}) != forms({"head": honest.get("head", {})}) or set(found) - {
        "adapter",
        "head",
    }:
        return "head"
    own, like = found.get("adapter", {}), honest.get("adapter", {})
    return RULES[case.rule](case, own, like)


def leaves(tree):
    for value in tree.values():
        if isinstance(value, dict):
            yield from leaves(value)
        elif isinstance(value, tuple):
            yield value


def same(case, own, like):
    return None if forms(own) == forms(like) else "forms"


def pruned(case, own, like):
    rank = case.order.client.rank
    for kept in (rank, max(1, int(0.99 * rank))):
        sides = {"input": {}, "output": {}}
        for number, (d_out, d_in) in enumerate(SHAPES):
            sides["input"][f"module{number}"] = ("F32", (kept, d_in), None)
            sides["output"][f"module{number}"] = ("F32", (d_out, kept), None)
        if forms(own) == forms(sides):
            return None
    return "rank"


def with_score(case, own, like):
    score = own.get("score", 0.5)
    if (
        isinstance(score, bool)
        or not isinstance(score, int | float)
        or not 0 <= score <= 1
        or ("score" in own) > (case.order.round == 1)
    ):
        return "score"
    return same(case, {**own, "score": 0}, {**like, "score": 0})


def picked(case, own, like):
    side = "output" if case.order.round % 2 else "input"
    if set(own) - {side} or not isinstance(own.get(side, {}), dict):
        return "side"
    float_type, width = ("BF16", 2) if case.rule == "bytes" else ("F32", 4)
    lengths = {f"module{n}": (d_in if side == "input" else d_out) for n, (d_out, d_in) in enumerate(SHAPES)}
    spent = 0
    for module, entry in own.get(side, {}).items():
        if module not in lengths or set(entry) != {"slots", "values"}:
            return "module"
        numbers = entry["slots"][2].tolist()
        length = lengths[module]
        shape = (len(numbers), length) if side == "input" else (length, len(numbers))
        if entry["slots"][:2] != ("U8", (len(numbers),)) or entry["values"][:2] != (float_type, shape):
            return "forms"
        if not numbers or sorted(set(numbers)) != numbers or numbers[-1] >= POOL:
            return "slots"
        spent += len(numbers) * (length * width + 1 if case.rule == "bytes" else 1)
    each = sum(length * width + 1 for length in lengths.values()) if case.rule == "bytes" else len(SHAPES)
    return None if spent <= case.order.client.rank * each else "budget"


RULES = {"same": same, "pruned": pruned, "score": with_score, "slots": picked, "bytes": picked}


def agrees(reply, envelope, payload):
    """Whether what was handed on is what the bytes say, bit for bit."""
    told = json.loads(envelope)
    named = (reply.client, reply.round, reply.steps, reply.loss, reply.notes)
    if named != tuple(told[key] for key in ("client", "round", "steps", "loss", "notes")):
        return False

    def walk(own, like):
        if isinstance(own, torch.Tensor):
            wide = own.float() if own.dtype == torch.bfloat16 else own
            return tuple(own.shape) == like[1] and wide.numpy().tobytes() == like[2].tobytes()
        if isinstance(own, dict):
            return list(own) == list(like) and all(walk(own[key], like[key]) for key in own)
        return own == like

    return walk(reply.payload, plain(payload))


def let_in(case, envelope, payload):
    """What validation makes of it, by the whole way that a stranger's bytes go: a reply, or the reason against it."""
    answer = validate.received(case.order, message_of(envelope, payload))
    if isinstance(answer, Reply):
        answer = validate.validate_reply(answer, case.order)
    return answer if isinstance(answer, Reply) else answer.reason


def harm(case, envelope, payload, reply):
    """Why an accepted mutant is not harmless; None: it is."""
    try:
        wrong = judge(case, envelope, payload)
        if wrong is None and not agrees(reply, envelope, payload):
            wrong = "handed on as something else"
    except Exception as error:
        wrong = f"the judge cannot read it: {type(error).__name__}: {error}"
    if wrong is None and case.method is not None:
        content = case.order.schema.content
        try:
            update = Update.from_payload(case.order.client, cast_floats(reply.payload, torch.float32), content)
            state = case.method.aggregate(case.state, iter([update]), case.order.round)
        except Exception as error:
            return f"the method cannot aggregate it: {type(error).__name__}: {error}"
        own = walk_tensors(state.to_payload())
        if not all(bool(tensor.isfinite().all()) for tensor in own):
            wrong = "the server's state is no longer finite"
    return wrong


def fuzz(count, seed, enough=math.inf):
    """Try mutants, until so many faults of validation are found.

    Returns:
        Counts by kind and by reason, and of everything that should not be, the first few examples.
    """
    corpus, rng = cases(), random.Random(seed)
    tried, accepted, reasons, faults = Counter(), Counter(), Counter(), []
    honest = [let_in(case, case.envelope, case.payload) for case in corpus]
    faults += [("honest", 0, f"harmless, but {found}") for found in honest if isinstance(found, str)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(count):
        if len(faults) >= enough:
            break
        case = rng.choice(corpus)
        kind, envelope, payload = mutant(rng, case, corpus)
        if (envelope, payload) == (case.envelope, case.payload):
            kind = "unchanged"
        tried[kind] += 1
        try:
            decode_answer(message_of(envelope, payload))
        except PayloadError:
            pass
        except Exception as error:
            faults.append((kind, number, f"decoding: {type(error).__name__}: {error}"))
        try:
            found = let_in(case, envelope, payload)
        except Exception as error:
            faults.append((kind, number, f"crash: {type(error).__name__}: {error}"))
            continue
        if isinstance(found, str):
            reasons[re.sub(r"\(.*?\)|'.*?'|[\d.e+]*\d", "*", found)] += 1
            if kind in ("values", "unchanged"):
                faults.append((kind, number, f"harmless, but {found}"))
            continue
        accepted[kind] += 1
        wrong = harm(case, envelope, payload, found)
        if wrong is not None:
            faults.append((kind, number, f"{case.rule}: let in: {wrong}"))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seed": seed,
        "tried": dict(sorted(tried.items())),
        "accepted and harmless": dict(sorted(accepted.items())),
        "faults": faults,
        "peak client state, MiB": round(after / 1024, 1),
        "of it while fuzzing, MiB": round((after - before) / 1024, 1),
        "reasons": dict(reasons.most_common(40)),
    }


def main(out, count=200_000, seed=6):
    found = fuzz(int(count), int(seed))
    crashes = [own for own in found["faults"] if "let in" not in own[2] and "harmless" not in own[2]]
    told = {
        "mutants": sum(found["tried"].values()),
        "accepted": sum(found["accepted and harmless"].values()),
        "accepted that should not be": sum("let in" in own[2] for own in found["faults"]),
        "crashes": len(crashes),
        **found,
        "faults": found["faults"][:20],
    }
    Path(out).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in told.items() if not isinstance(value, dict)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
