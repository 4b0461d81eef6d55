"""Answers that wait for their turn do not fill the memory, and come back as they went in."""

import tempfile

import torch

from fedlora.core.payload import to_bytes
from fedlora.core.rounds import Client, Failure, Order, Reply
from fedlora.federation.collect import Collector
from fedlora.federation.parked import Parked


def reply(client, size=1000, **payload):
    tensors = {"m": torch.randn(size), "n": torch.randn(3).bfloat16(), "slots": torch.arange(4)}
    return Reply(client, 1, {"adapter": {"input": tensors, "note": [1, 2.5, "x", None], **payload}}, steps=3, loss=0.5)


def in_memory(parked):
    return sum(len(to_bytes(a.payload)) for a in parked._answers.values() if isinstance(a, Reply))


def test_what_is_beyond_the_limit_lies_on_disk():
    """S20: where the first in the alphabet was late, 38 uploads took 935 MB."""
    parked, replies = Parked(most=20_000), [reply(f"c{number}") for number in range(40)]
    for answer in replies:
        parked.put(answer)
    assert in_memory(parked) < 25_000
    for answer in replies:
        back = parked.pop(answer.client)
        assert to_bytes(back.payload) == to_bytes(answer.payload)
        assert (back.steps, back.loss) == (3, 0.5)
        assert parked.pop(answer.client) is None
    parked.put(replies[0])
    assert parked._files == {}  # there is room again


def test_a_full_disk_is_no_loss(monkeypatch):
    def full():
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    parked, answer = Parked(most=0), reply("c")
    parked.put(answer)
    assert to_bytes(parked.pop("c").payload) == to_bytes(answer.payload)


def test_files_of_answers_have_no_name(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    parked = Parked(most=0)
    parked.put(reply("c"))
    assert parked._files
    assert list(tmp_path.iterdir()) == []
    (file,) = parked._files.values()
    parked.close()
    assert file.closed


def test_answers_in_any_order_are_taken_in_client_order(monkeypatch):
    monkeypatch.setattr("fedlora.federation.collect.Parked", lambda: Parked(most=0))
    clients = [Client(f"c{number}", 3, 1) for number in range(6)]
    answers = [Reply(c.id, 1, {"adapter": {"input": {"m": torch.full((2,), float(c.id[1]))}}}) for c in clients]
    answers[2] = Failure("c2", 1, "late")
    for order in (answers, answers[::-1], [*answers[3:], *answers[:3]], answers[1:]):
        collector = Collector([Order("train", 1, client, {}) for client in clients])
        taken = [update.client.id for update in collector.updates(order)]
        assert taken == [a.client for a in answers if a in order and isinstance(a, Reply)]
        assert collector.records["c2"].status == "late"
