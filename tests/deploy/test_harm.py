"""Faults between server and sites, each really done: real sites behind real sockets, and a connection that does harm."""

import shutil
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.deploy.conftest import journal_state, lines, thread_site, write_rows
from tests.deploy.direct import DirectConnection

from fedlora.app.config.schema import make_config
from fedlora.core.rounds import Client
from fedlora.deploy.config import build_site, read_site
from fedlora.deploy.connection import Arrival
from fedlora.deploy.remote import AbsentError, RemoteTransport
from fedlora.deploy.server import run_server
from fedlora.deploy.sockets import read_key
from fedlora.errors import PayloadError, QuorumError, RunFolderError
from fedlora.federation.frame import Frame, encode_frame
from fedlora.federation.settings import DeploySettings
from fedlora.federation.wire import decode_answer

METHODS = ("lora-a2", "fedsa", "flora")


class Harmful(DirectConnection):
    """A connection with two places to do harm: where a message goes out, and where one comes in.

    Its clock jumps when nothing is under way any more, so that nobody waits for what was lost.
    """

    def __init__(self, world, sends=None, arrives=None):
        own = {name: read_site(world.site(name)) for name in ("ash", "birch", "cedar")}
        super().__init__({site.site.address: read_key(Path(site.site.key)) for site in own.values()})
        self.names = {site.site.address: name for name, site in own.items()}
        self.sends, self.arrives = sends or (lambda *_: True), arrives or (lambda arrival, *_: [arrival])
        self.round, self.training = 0, False
        self.under_way, self.ahead = 0, 0.0

    def clock(self):
        return time.monotonic() + self.ahead

    def send(self, node, data, patience):
        self.training = b'"kind": "train"' in data[:400]
        if b'"kind": "order"' in data[:200] and self.training and self.names[node] == "ash":
            self.round += 1
        if self.sends(self.names[node], self.round if self.training else None):
            self.under_way += 1
            return super().send(node, data, patience)
        return "lost"

    def collect(self, wait):
        when = self.round if self.training else None
        came = super().collect(wait) if self.under_way else ()
        self.under_way -= len(came)
        self.ahead += 0.0 if self.under_way or came else wait
        return [new for old in came for new in self.arrives(old, self.names[old.node], when)]


def run(world, out, connection, resume=False, **patience):
    shared = {**world.shared, "deploy": {**world.shared["deploy"], **patience}}
    return [
        record for _, record in run_server(make_config(shared), connection, out, resume, connection.clock) if record
    ]


def statuses(out, client):
    return [line["status"] for line in lines(out / "clients.jsonl") if line["client"] == client]


def told(out):
    return [line["what"] for line in lines(out / "deliveries.jsonl") if not line["what"].startswith("hello")]


@pytest.fixture
def absent(world, threads, tmp_path):
    """The run in which birch is not reached in round 2, to compare with."""

    def go(method):
        own = world(method, rounds=3)
        threads(own)
        connection = Harmful(own, sends=lambda name, round: (name, round) != ("birch", 2))
        run(own, tmp_path / "absent", connection)
        assert statuses(tmp_path / "absent", "birch") == ["accepted", "no answer within 60 s", "accepted"]
        return own

    return go


def test_lost_late_and_damaged_replies_are_absences(world, threads, tmp_path):
    """One run with all of them against one in which the same clients were never reached."""
    own, held = world("lora-a2", rounds=4), []
    threads(own)
    harmed = {("birch", 2): "lost", ("cedar", 3): "late", ("ash", 4): "damaged"}

    def harm(arrival, name, round):
        kind = harmed.get((name, round))
        if kind == "damaged":
            return [Arrival(arrival.node, arrival.ticket, arrival.data[:-1] + b"\x7f")]
        if kind == "late":
            held.append(arrival)
        return [] if kind else [*held, arrival] if round == 4 else [arrival]

    run(own, tmp_path / "harmed", Harmful(own, arrives=harm))
    absent = Harmful(own, sends=lambda name, round: (name, round) not in harmed)
    run(own, tmp_path / "absent", absent)
    assert journal_state(tmp_path / "harmed") == journal_state(tmp_path / "absent")
    assert statuses(tmp_path / "harmed", "birch")[1] == "no answer within 60 s"
    assert statuses(tmp_path / "harmed", "cedar")[2] == "no answer within 60 s"
    assert "damaged" in statuses(tmp_path / "harmed", "ash")[3]
    assert set(told(tmp_path / "harmed")) == {"dropped: a reply to an order that is not open"}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_lost_reply_is_an_absence(absent, tmp_path, method):
    own = absent(method)
    connection = Harmful(own, arrives=lambda arrival, *when: [] if when == ("birch", 2) else [arrival])
    run(own, tmp_path / "lost", connection)
    assert statuses(tmp_path / "lost", "birch") == ["accepted", "no answer within 60 s", "accepted"]
    assert journal_state(tmp_path / "lost") == journal_state(tmp_path / "absent")


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_late_reply_and_a_reply_to_an_old_round_are_dropped(absent, tmp_path, method):
    own, held = absent(method), []

    def hold(arrival, name, round):
        if (name, round) == ("birch", 2):
            held.append(arrival)
            return []
        return [*held, arrival] if round == 3 else [arrival]  # again and again, in the round after

    run(own, tmp_path / "late", Harmful(own, arrives=hold))
    assert statuses(tmp_path / "late", "birch") == ["accepted", "no answer within 60 s", "accepted"]
    assert journal_state(tmp_path / "late") == journal_state(tmp_path / "absent")
    assert set(told(tmp_path / "late")) == {"dropped: a reply to an order that is not open"}


@pytest.mark.slow
def test_a_damaged_reply_is_an_absence(absent, tmp_path):
    own = absent("lora-a2")

    def damage(arrival, name, round):
        if (name, round) != ("birch", 2):
            return [arrival]
        middle = len(arrival.data) // 2
        return [Arrival(arrival.node, arrival.ticket, arrival.data[:middle] + b"\x7f" + arrival.data[middle + 1 :])]

    run(own, tmp_path / "damaged", Harmful(own, arrives=damage))
    first, second, third = statuses(tmp_path / "damaged", "birch")
    assert (first, third) == ("accepted", "accepted")
    assert second.startswith("refused: these")
    assert journal_state(tmp_path / "damaged") == journal_state(tmp_path / "absent")


def test_a_duplicate_is_counted_once(world, threads, tmp_path):
    own = world("fedsa")
    own.simulate(tmp_path / "simulated")
    threads(own)
    run(own, tmp_path / "twice", Harmful(own, arrives=lambda arrival, *_: [arrival, arrival]))
    assert journal_state(tmp_path / "twice") == journal_state(tmp_path / "simulated")
    assert "dropped: a reply to an order that is not open" in told(tmp_path / "twice")


def test_a_duplicate_order_is_served_once(world, threads, tmp_path):
    own = world("fedsa")
    own.simulate(tmp_path / "simulated")
    threads(own)

    class Stuttering(Harmful):
        def send(self, node, data, patience):
            self.under_way += 1
            DirectConnection.send(self, node, data, patience)
            return super().send(node, data, patience)

    run(own, tmp_path / "twice", Stuttering(own))
    assert journal_state(tmp_path / "twice") == journal_state(tmp_path / "simulated")


def test_a_lost_memory_is_told_and_made_good(world, threads, tmp_path):
    own = world("fedsa", rounds=4)
    threads(own)
    records = run_server(own.config, Harmful(own), tmp_path / "out")
    for _, record in records:
        if record and record.round == 2:
            (client_states,) = (own.folder / "sites" / "birch" / "private").glob("*/client_states")
            shutil.rmtree(client_states)
    first, second, third, fourth = statuses(tmp_path / "out", "birch")
    assert (first, second, fourth) == ("accepted", "accepted", "accepted")
    assert third.startswith("StateLostError: the order builds on round 2, but this client holds nothing")


def test_too_few_stop_the_run_and_it_goes_on(world, tmp_path):
    own = world("fedsa", rounds=3)
    own.simulate(tmp_path / "simulated")
    with ExitStack() as stack:
        for path in own.sites():
            stack.enter_context(thread_site(path))
        connection = Harmful(own, sends=lambda name, round: round != 2 or name == "ash")
        with pytest.raises(
            QuorumError,
            match=r"Round 2: 1 of 3 clients gave .* fewer than deploy.quorum \(2\); client birch failed with no answer",
        ):
            run(own, tmp_path / "out", connection, quorum=2)
    with ExitStack() as stack:  # the sites are started anew, too
        for path in own.sites():
            stack.enter_context(thread_site(path))
        run(own, tmp_path / "out", Harmful(own), resume=True, quorum=1, deadline=90.0)
    assert journal_state(tmp_path / "out") == journal_state(tmp_path / "simulated")
    assert (tmp_path / "out" / "deliveries.jsonl").is_file()


def test_sites_that_do_not_come(world, threads, tmp_path):
    own = world("fedsa", deploy={"sites": 4})
    threads(own)
    with pytest.raises(AbsentError, match=r"After 3 seconds 3 of 4 sites are there \(ash, birch, cedar\)"):
        run(own, tmp_path / "out", Harmful(own), wait=3.0)


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"train": {"lr": 0.1}}, r"train.lr is 0.1 at site \w+ and 0.005 at the server: give both the same"),
        ({"run": {"seed": 7}}, r"run.seed is 7 at site \w+ and 0 at the server"),
        ({"adapter": {"alpha": 8.0}}, r"adapter.alpha is 8.0 at site \w+ and 16.0 at the server"),
    ],
)
def test_another_shared_config_is_refused(world, threads, tmp_path, sections, sentence):
    (tmp_path / "theirs").mkdir()
    theirs = world("fedsa", folder=tmp_path / "theirs", **sections)
    ours = world("fedsa")
    threads(theirs)
    with pytest.raises(AbsentError, match=rf"All that are connected were refused: 0 of 3 .* {sentence}"):
        run(ours, tmp_path / "out", Harmful(theirs))
    assert not (tmp_path / "out").exists()


def test_each_site_writes_its_own_model(world, threads, tmp_path):
    own = world("fedsa")
    own.simulate(tmp_path / "simulated")
    threads(own)
    run(own, tmp_path / "out", Harmful(own))
    assert not (tmp_path / "out" / "clients").exists()
    for name in ("ash", "birch", "cedar"):
        (written,) = (own.folder / "sites" / name / "private").glob("*/adapter")
        there = tmp_path / "simulated" / "clients" / name / "adapter"
        for file in ("adapter_model.safetensors", "adapter_config.json", "fedlora.json"):
            assert (written / file).read_bytes() == (there / file).read_bytes()


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"name": 3},
        {"name": "x" * 101, "shared": {}, "examples": 1, "rank": 1},
        {"name": "x", "shared": ["a"], "examples": 1, "rank": 1},
        {"name": "x", "shared": {"a": 1}, "examples": 1, "rank": 1},
        {"name": "x", "shared": {}, "examples": 10**30, "rank": 1},
        {"name": "x", "shared": {}, "examples": True, "rank": 1},
        {"name": "x", "shared": {}, "examples": 0, "rank": 1},
        {"name": "x", "shared": {}, "examples": 1.5, "rank": None},
    ],
)
def test_a_hello_is_not_trusted_to_have_any_form(told):
    fields = {"name": "x", "shared": {}, "examples": 1, "rank": 1}
    assert decode_answer(encode_frame(Frame("introduction", fields)).data).client == Client("x", 1, 1)
    with pytest.raises(PayloadError):
        decode_answer(encode_frame(Frame("introduction", told)).data)


def test_a_site_that_changed_its_data_or_config_is_told_apart(world, threads, tmp_path):
    own = world("fedsa", rounds=3)
    sites = threads(own)
    for _, record in run_server(own.config, Harmful(own), tmp_path / "out"):
        if record and record.round == 1:
            sites[0].client = Client("ash", 7, 1)
            sites[1]._digest = "another"
        if record and record.round == 2:
            sites[1]._digest = sites[2]._digest
    assert statuses(tmp_path / "out", "cedar") == ["accepted"] * 3
    assert "and this is ash with 7 examples: start the server again" in statuses(tmp_path / "out", "ash")[1]
    assert "the shared config has changed since the hello" in statuses(tmp_path / "out", "birch")[1]
    assert statuses(tmp_path / "out", "birch")[2] == "accepted"


def turn_texts(path):
    """As many examples, with each other's texts."""
    rows = lines(path)
    write_rows(path, [{**row, "text": other["text"]} for row, other in zip(rows, reversed(rows), strict=True)])


def test_a_site_with_other_examples_than_it_began_with_takes_no_further_part(world, threads, tmp_path):
    own = world("fedsa", rounds=3)
    ash = threads(own)[0]
    began = ash._simulation
    for _, record in run_server(own.config, Harmful(own), tmp_path / "out"):
        if record and record.round == 1:
            turn_texts(own.folder / "sites" / "ash" / "data" / "train.jsonl")
            ash._simulation = build_site(read_site(own.site("ash")))  # as if its process were started anew
        if record and record.round == 2:
            ash._simulation = began
    first, second, third = statuses(tmp_path / "out", "ash")
    assert (first, third) == ("accepted", "accepted")
    assert "ash began this run with other examples: put them back there, or start a new run" in second
    assert statuses(tmp_path / "out", "cedar") == ["accepted"] * 3


def test_a_run_is_not_resumed_with_a_site_of_other_examples(world, tmp_path, capfd):
    own = world("fedsa", rounds=2)
    with ExitStack() as stack:
        for path in own.sites():
            stack.enter_context(thread_site(path))
        for _, record in run_server(own.config, Harmful(own), tmp_path / "out"):
            if record:
                break
    turn_texts(own.folder / "sites" / "ash" / "data" / "train.jsonl")
    with ExitStack() as stack:
        for path in own.sites():
            stack.enter_context(thread_site(path))
        with pytest.raises(AbsentError, match="Site ash is refused"):
            run(own, tmp_path / "out", Harmful(own), resume=True)
        assert "ash began this run with other examples" in capfd.readouterr().err
        run(own, tmp_path / "new", Harmful(own))  # a new run may begin with them
    assert statuses(tmp_path / "new", "ash") == ["accepted"] * 2


def test_the_servers_test_file_is_that_of_the_start(world, threads, tmp_path):
    file = tmp_path / "test.jsonl"
    own = world("fedit", rounds=2, deploy={"test": str(file)})
    shutil.copy(own.folder / "sites" / "ash" / "data" / "test.jsonl", file)
    threads(own)
    for _, record in run_server(own.config, Harmful(own), tmp_path / "out"):
        if record:
            break
    before = file.read_bytes()
    turn_texts(file)
    with pytest.raises(RunFolderError, match=r"was started with other test examples \(data.path, or deploy.test\)"):
        run(own, tmp_path / "out", Harmful(own), resume=True)
    with pytest.raises(RunFolderError, match="was started with other test examples"):
        run(own, tmp_path / "out", Harmful(own), resume=True, test=None)
    file.write_bytes(before)
    run(own, tmp_path / "out", Harmful(own), resume=True)
    assert statuses(tmp_path / "out", "ash") == ["accepted"] * 2


def test_two_servers_in_one_second_number_their_orders_apart():
    """A site takes a smaller number for an old order; a server that starts again at once must not seem old."""
    from fedlora.deploy.sites import Members

    remotes = [
        RemoteTransport(DirectConnection({}), {}, "r", DeploySettings(1), lambda clients: None, members=Members())
        for _ in range(2)
    ]
    assert remotes[0].session < remotes[1].session
