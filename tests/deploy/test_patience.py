"""How long the server waits and for whom: slow sites, refused sites, clocks that were set back, another number of rounds."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from tests.deploy.conftest import journal_state, lines
from tests.deploy.test_harm import Harmful, run, statuses

from fedlora.app.config.schema import make_config
from fedlora.core.metrics import Score
from fedlora.core.rounds import Client
from fedlora.deploy.config import difference, shared_part
from fedlora.deploy.connection import Arrival
from fedlora.deploy.deadline import LONGEST, Deadline
from fedlora.deploy.log import absences
from fedlora.deploy.remote import AbsentError, RemoteTransport
from fedlora.deploy.server import run_server
from fedlora.deploy.sites import Members
from fedlora.errors import QuorumError
from fedlora.federation.frame import Frame, decode_frame, encode_frame
from fedlora.federation.record import RoundRecord, blank_record
from fedlora.federation.settings import DeploySettings


def test_one_slow_site_does_not_move_the_deadline():
    """S7: an answer just before the deadline tripled it every round: 1, 2.9, 8, 23, 66, 188 hours."""
    deadline, limits = Deadline(None), []
    for _ in range(8):
        limit = deadline.limit("train")
        limits.append(limit)
        deadline.learn("train", [20.0, 21.0, 22.0, 25.0, limit - 1.0])
    assert limits[0] == LONGEST
    assert set(limits[1:]) == {110.0}


def test_no_deadline_is_longer_than_the_first():
    deadline = Deadline(None)
    for _ in range(8):
        deadline.learn("train", [deadline.limit("train") - 1.0] * 3)
    assert deadline.limit("train") == LONGEST
    assert deadline.limit("evaluate") == LONGEST


def test_deadlines_have_a_floor_and_can_be_set():
    deadline = Deadline(None)
    deadline.learn("train", [0.1, 0.2])
    deadline.learn("train", [])
    assert deadline.limit("train") == 30.0
    fixed = Deadline(90.0)
    fixed.learn("train", [3000.0])
    assert fixed.limit("train") == 90.0


def hellos(arrival, name, changed):
    """An arrival with the introduction of some site changed."""
    message = decode_frame(arrival.data) if arrival.data else None
    if message is None or message.kind != "introduction" or name not in changed:
        return [arrival]
    told = changed[name]
    data = told if isinstance(told, bytes) else encode_frame(Frame("introduction", {**message.fields, **told})).data
    return [Arrival(arrival.node, arrival.ticket, data)]


@pytest.mark.parametrize("told", [{"rank": 99}, {"rank": 0}, {"name": "x" * 200}, b"no message"], ids=str)
def test_a_refused_site_keeps_no_other_from_coming(world, threads, tmp_path, told):
    """S16: a single refusal or malformed hello ended the gathering."""
    own = world("fedsa", deploy={"sites": 2})
    threads(own)
    connection = Harmful(own, arrives=lambda arrival, name, round: hellos(arrival, name, {"ash": told}))
    run(own, tmp_path / "out", connection)
    assert {line["client"] for line in lines(tmp_path / "out" / "clients.jsonl")} == {"birch", "cedar"}
    noted = [line for line in lines(tmp_path / "out" / "deliveries.jsonl") if line["what"].startswith("refused")]
    assert len(noted) == 1


def test_a_site_whose_hello_was_damaged_is_asked_again(world, threads, tmp_path):
    own, damaged = world("fedsa"), []

    def harm(arrival, name, round):
        if name == "birch" and not damaged:
            damaged.append(arrival)
            return hellos(arrival, name, {"birch": b"no message"})
        return [arrival]

    threads(own)
    run(own, tmp_path / "out", Harmful(own, arrives=harm))
    assert damaged
    assert statuses(tmp_path / "out", "birch") == ["accepted"] * 2


def test_who_was_refused_is_named_when_too_few_come(world, threads, tmp_path):
    own = world("fedsa")
    threads(own)
    said = []
    connection = Harmful(own, arrives=lambda arrival, name, round: hellos(arrival, name, {"ash": {"rank": 99}}))
    with pytest.raises(
        AbsentError, match=r"2 of 3 sites are there \(birch, cedar\). Site ash is refused: its rank is 99"
    ):
        for _ in run_server(own.config, connection, tmp_path / "out", clock=connection.clock, tell=said.append):
            pass
    assert len([line for line in said if "its rank is 99" in line]) == 1, said


def test_a_server_whose_clock_was_set_back_goes_on(world, threads, tmp_path, monkeypatch):
    """S15: all sites took its orders for old ones, and the sentence blamed the quorum."""
    own = world("fedsa", rounds=3)
    threads(own)
    with pytest.raises(QuorumError, match="Round 2"):
        run(own, tmp_path / "out", Harmful(own, sends=lambda name, round: round != 2))
    before = json.loads((tmp_path / "out" / "deployment.json").read_text())["session"]
    monkeypatch.setattr("fedlora.deploy.remote.time", SimpleNamespace(time_ns=lambda: 1000))
    run(own, tmp_path / "out", Harmful(own), resume=True)
    assert statuses(tmp_path / "out", "ash") == ["accepted"] * 3
    assert json.loads((tmp_path / "out" / "deployment.json").read_text())["session"] == before + 1


def test_sessions_rise_though_the_clock_stands_still(monkeypatch):
    monkeypatch.setattr("fedlora.deploy.remote.time", SimpleNamespace(time_ns=lambda: 5000))
    nobody = Harmful.__mro__[1]({})
    first = RemoteTransport(nobody, {}, "r", DeploySettings(1), print, members=Members())
    second = RemoteTransport(nobody, {}, "r", DeploySettings(1), print, members=Members(), session=first.session)
    assert first.session < second.session


def test_more_rounds_are_the_servers_affair(world, threads, tmp_path):
    """H6: other rounds needed every site's file and a restart."""
    own = world("fedsa", rounds=2)
    threads(own)
    longer = world("fedsa", rounds=3, folder=tmp_path)
    out = tmp_path / "out"
    records = [r for _, r in run_server(make_config(longer.shared), Harmful(longer), out) if r]
    assert [record.round for record in records] == [1, 2, 3]
    assert statuses(out, "birch") == ["accepted"] * 3


@pytest.mark.parametrize("train", [{"schedule": "linear"}, {"schedule": "cosine"}, {"warmup": 0.1}], ids=str)
def test_rounds_are_compared_where_learning_rates_follow_them(ground, world, train):
    own, base = world("fedsa", train=train), SimpleNamespace(fingerprint="b", tokenizer_fingerprint="t")
    ours = shared_part(own.config, base)
    more = make_config({**own.shared, "run": {**own.shared["run"], "rounds": 9}})
    assert difference(shared_part(more, base), ours, "ash").startswith(
        "run.rounds is 2 at site ash and 9 at the server"
    )


def test_a_rounds_line_names_who_is_missing():
    """H7: `2 clients (1 without a reply)`."""
    scored = Score(3, {"correct": 1, "loss": 2.0})
    clients = (
        blank_record(Client("ash", 3, 1), 2, "accepted"),
        blank_record(Client("birch", 3, 1), 2, "failed").failed("the site's process is not running"),
        blank_record(Client("cedar", 3, 1), 2, "accepted"),
    )
    clients = (replace(clients[0], score=scored), clients[1], clients[2])
    record = RoundRecord(2, clients, True, None)
    assert absences(record) == "  without birch (the site's process is not running)  no score of cedar"
    assert absences(replace(record, clients=clients[:1])) == ""


def test_the_server_tells_at_once_who_came_and_what_was_dropped(world, threads, tmp_path):
    own, said = world("fedsa"), []
    threads(own)
    connection = Harmful(own, arrives=lambda arrival, *_: [arrival, arrival])
    for _ in run_server(own.config, connection, tmp_path / "out", clock=connection.clock, tell=said.append):
        pass
    assert any("hello: birch" in line for line in said)
    assert any(line.startswith("site birch: dropped: a reply") for line in said)
    assert journal_state(tmp_path / "out")


def test_a_finished_deployment_goes_on_to_more_rounds(world, threads, tmp_path):
    """The server alone says how many: no site is changed or restarted."""
    own = world("fedsa", rounds=2)
    threads(own)
    run(own, tmp_path / "out", Harmful(own))
    longer = make_config({**own.shared, "run": {**own.shared["run"], "rounds": 4}})
    records = [record for _, record in run_server(longer, Harmful(own), tmp_path / "out", resume=True) if record]
    assert [record.round for record in records] == [3, 4]
    assert statuses(tmp_path / "out", "birch") == ["accepted"] * 4
    (tmp_path / "whole").mkdir()
    whole = world("fedsa", rounds=4, folder=tmp_path / "whole")
    whole.simulate(tmp_path / "simulated")
    assert journal_state(tmp_path / "out") == journal_state(tmp_path / "simulated")
