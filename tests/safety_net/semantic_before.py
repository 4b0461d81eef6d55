"""The trees of commit 7702f80 under names that say what a tensor is, wherever the code keeps it.

- `A` is the input side and `B` the output side of every kind of adapter ("input" and "output" in the trees).
- Chosen slots (LoRA-A2) are `slots/SIDE/MODULE` beside their values in `SIDE/MODULE`.
- Everything else keeps the path that it has in its tree.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from capture import Recorder, tensor_bytes
from safetensors.torch import load_file

from fedlora.core.parcel import Parcel, branch
from fedlora.core.rounds import Memory, Score
from fedlora.federation.record import ClientRecord, RoundRecord
from fedlora.federation.server import Federation, Server
from fedlora.federation.transport import parts
from fedlora.methods.base import Method
from fedlora.methods.wrap import ServerOptimizer, Wrapper

_SIDES = {"input": "A", "output": "B"}


def named(tree: Any) -> Any:
    """A tree with its sides renamed, and chosen slots apart from their values."""
    if not isinstance(tree, Mapping):
        return tree
    result: dict[str, Any] = {}
    for key, value in tree.items():
        side = _SIDES.get(key, key)
        if key in _SIDES and isinstance(value, Mapping) and any(_is_sparse(below) for below in value.values()):
            result[side] = {module: below["values"] for module, below in value.items()}
            result["slots"] = {**result.get("slots", {}), side: {m: below["slots"] for m, below in value.items()}}
        else:
            result[side] = named(value)
    return result


def _is_sparse(value: Any) -> bool:
    return isinstance(value, Mapping) and value.keys() == {"slots", "values"}


def record_payload(out: Recorder, parcel: Parcel) -> None:
    """What travelled in one direction, after the wire, and the bytes of its tensors."""
    method_part, head = parts(parcel)
    out.tree(named(method_part))
    out.under("head").tree(head)
    out.count("tensor_bytes", tensor_bytes(parcel))
    out.count("head_tensor_bytes", tensor_bytes(head))


def record_server(out: Recorder, federation: Federation, server: Server) -> None:
    """All that the server knows after a round."""
    out.under("state").tree(named({"input": server.state.adapter.input, "output": server.state.adapter.output}))
    out.under("head").tensors(server.head)
    out.under("seen").tree(server.seen)
    extra, method = server.state.extra, federation.method
    depth = 0
    while isinstance(method, Wrapper):
        if isinstance(method, ServerOptimizer):
            out.under("stage", depth, method.wrapper_name).tree(named(branch(extra, "moments")))
            extra = branch(extra, "inner")
        method, depth = _inner(method), depth + 1
    out.under("extra").tree(named(extra))


def _inner(method: Wrapper) -> Method:
    return method.inner


def record_memory(out: Recorder, memory: Memory | None) -> None:
    """What a client keeps."""
    if memory is None:
        out.text("kept", "nothing")
        return
    out.count("kept_round", memory.round)
    out.under("kept").tree(named(memory.kept))
    out.under("kept_head").tensors(memory.head)


def record_score(out: Recorder, score: Score | None) -> None:
    """A score's sums."""
    if score is None:
        out.text("none", "no score")
        return
    out.count("examples", score.examples)
    out.count("correct", score.correct)
    out.score("loss", score.loss)
    out.score("accuracy", score.accuracy)


def record_round(out: Recorder, record: RoundRecord) -> None:
    """A round's record."""
    out.count("accepted", record.accepted)
    out.score("loss", record.loss)
    out.count("parameters_up", record.parameters_up)
    record_score(out.under("global"), record.global_score)
    if record.personal is not None:
        summed = record.personal
        fields = ("mean", "weighted_mean", "standard_deviation", "worst_tenth", "loss", "count", "empty")
        out.under("personal").tree({field: getattr(summed, field) for field in fields})
    out.encoded("encoded_bytes/up", record.traffic.up)
    out.encoded("encoded_bytes/down", record.traffic.down)
    out.encoded("encoded_bytes/overhead", record.traffic.overhead)
    out.encoded("encoded_bytes/evaluation", record.evaluation_bytes)
    for client in record.clients:
        _record_client(out.under(client.client), client)


def _record_client(out: Recorder, record: ClientRecord) -> None:
    out.text("status", _category(record.status))
    out.text("reason", record.status)
    out.count("examples", record.examples)
    out.count("rank", record.rank)
    out.count("parameters_up", record.parameters_up)
    out.count("head_bytes_up", record.head_bytes_up)
    out.count("head_bytes_down", record.head_bytes_down)
    out.score("loss", record.loss)
    record_score(out.under("score"), record.score)
    out.under("notes").tree(named(record.notes))
    out.encoded("encoded_bytes/up", record.traffic.up)
    out.encoded("encoded_bytes/down", record.traffic.down)
    out.encoded("encoded_bytes/overhead", record.traffic.overhead)


def _category(status: str) -> str:
    if status in ("accepted", "idle", "unreachable", "no answer"):
        return status
    return "refused" if status.startswith("refused") else "failed"


def record_export(out: Recorder, folder: Path) -> None:
    """Every exported adapter or model: tensors, and the values of the files beside them."""
    for path in sorted(folder.rglob("*.safetensors")):
        if path.name in ("adapter_model.safetensors", "model.safetensors"):
            out.under(path.parent.relative_to(folder).as_posix()).tensors(load_file(path))
    for name, below in (("adapter_config.json", "config"), ("config.json", "config"), ("fedlora.json", "about")):
        for path in sorted(folder.rglob(name)):
            fields = json.loads(path.read_text(encoding="utf-8"))
            fields.pop("method", None)  # the file of a method of the user's own is named by its path
            out.under(path.parent.relative_to(folder).as_posix(), below).tree(fields)
