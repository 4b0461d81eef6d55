"""What counts for the quorum: an update that was accepted. A quorum is there so that no site stands alone in a sum."""

import pytest
import torch

from fedlora.core.rounds import Client, Failure, Order, Reply
from fedlora.core.schema import ReplySchema, TensorSpec, UploadSchema
from fedlora.errors import QuorumError
from fedlora.federation.collect import Collector

CLIENTS = [Client(f"c{number}", 3, 1) for number in range(3)]
SCHEMA = ReplySchema(UploadSchema(({"input": {"m": TensorSpec((2,), torch.float32)}},)), norm=1.0)


def collected(*answers):
    collector = Collector([Order("train", 1, client, {}, schema=SCHEMA) for client in CLIENTS])
    updates = list(collector.updates(answers))
    return collector, updates


def reply(client, size=0.1):
    return Reply(client, 1, {"adapter": {"input": {"m": torch.full((2,), size)}}})


def lost(client):
    return Failure(client, 1, "the order builds on round 3", "state lost")


def test_refused_updates_do_not_count():
    """S8: with quorum 3 and two updates refused for their norm the round went on with one, which others could read."""
    collector, updates = collected(reply("c0"), reply("c1", 100.0), reply("c2", 100.0))
    assert len(updates) == 1
    with pytest.raises(QuorumError, match=r"1 of 3 clients gave an update, .*client c1 failed with refused: a norm of"):
        collector.require_quorum(3)


def test_a_round_of_lost_states_goes_by_without_showing_who_is_left():
    collector, _ = collected(reply("c0"), lost("c1"), lost("c2"))
    assert not collector.require_quorum(3)
    assert collector.seen == {}
    assert collector.records["c0"].status.startswith("not used: fewer updates than deploy.quorum")
    assert collector.lost == {"c1", "c2"}


def test_enough_updates_count_whatever_else_was_lost():
    collector, _ = collected(reply("c0"), reply("c1"), lost("c2"))
    assert collector.require_quorum(2)
    assert set(collector.seen) == {"c0", "c1"}
    assert collector.records["c0"].status == "accepted"
