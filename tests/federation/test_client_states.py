"""ClientStates on disk are client states: the same answers as in the process, shared parts stored once."""

import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlora.core.payload import to_bytes
from fedlora.core.rounds import ClientState
from fedlora.errors import RunFolderError
from fedlora.federation.client_states import HeldClientStates, StoredClientStates


def client_state(round, shared, own, head):
    kept = {"input": {"m": torch.full((2, 3), float(shared))}, "output": {"m": torch.full((3, 2), float(own))}}
    return ClientState(round, {**kept, "count": round}, {"h": torch.full((2,), float(head))} if head else {})


def same(one, other):
    return (one is None and other is None) or to_bytes(one.to_payload()) == to_bytes(other.to_payload())


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b/c", "ü.1"]), st.integers(1, 6), st.integers(0, 2), st.integers(0, 3), st.integers(0, 1)
    ),
    max_size=15,
)


@given(EVENTS, st.integers(1, 7))
@settings(deadline=None, max_examples=60)
def test_on_disk_as_in_the_process(events, asked):
    folder = Path(tempfile.mkdtemp())
    try:
        held, stored = HeldClientStates(), StoredClientStates(folder)
        for client, round, shared, own, head in events:
            held.keep(client, client_state(round, shared, own, head))
            stored.keep(client, client_state(round, shared, own, head))
        for again in (stored, StoredClientStates(folder)):
            for client in ("a", "b/c", "ü.1", "nobody"):
                assert same(again.latest(client), held.latest(client))
                assert same(again.before(client, asked), held.before(client, asked))
        named = {blob for client in stored._rounds for r in stored._rounds[client] for blob in stored._names(client, r)}
        assert {blob.name for blob in (folder / "blobs").iterdir()} == named
    finally:
        shutil.rmtree(folder)


def test_what_all_keep_alike_is_there_once(tmp_path):
    stored = StoredClientStates(tmp_path)
    for client in range(50):
        stored.keep(f"c{client}", client_state(1, shared=7, own=client, head=0))
    assert len(list((tmp_path / "blobs").iterdir())) == 1 + 50 + 1  # the shared side, everyone's own, the count


def test_an_unfinished_round_is_forgotten(tmp_path):
    stored = StoredClientStates(tmp_path)
    for round in (1, 2, 3):
        stored.keep("a", client_state(round, round, round, 0))
    again = StoredClientStates(tmp_path, until=2)
    assert again.latest("a").round == 2
    assert len(list(tmp_path.glob("*.json"))) == 1


def test_a_damaged_memory_is_said(tmp_path):
    StoredClientStates(tmp_path).keep("a", client_state(1, 1, 2, 0))
    for blob in (tmp_path / "blobs").iterdir():
        blob.write_bytes(b"x")
    with pytest.raises(RunFolderError, match="damaged or missing"):
        StoredClientStates(tmp_path).latest("a")
