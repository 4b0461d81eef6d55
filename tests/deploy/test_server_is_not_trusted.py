"""What a site does not do for a server, whatever it asks: leave the run's folder, take a larger rank, be counted out."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from fedlora.app.run.results import summarise
from fedlora.core.payload import cast_floats
from fedlora.core.rounds import Order
from fedlora.deploy.config import build_site, read_site, site_client
from fedlora.deploy.runs import new_run_name, require_run_name
from fedlora.deploy.site import Site
from fedlora.errors import PayloadError
from fedlora.federation.server import begin
from fedlora.federation.transport import join_head
from fedlora.federation.wire import (
    FailureMessage,
    Finished,
    FinishMessage,
    Hello,
    Introduction,
    OrderMessage,
    ReplyMessage,
    decode_answer,
    encode,
)


@pytest.fixture
def site(world):
    given = read_site(world("fedsa").site("birch"))
    simulation = build_site(given)
    folder = Path(given.site.folder)
    folder.mkdir()
    return Site(simulation, site_client(simulation, given), folder)


def order_of(site, kind="train", round=1, head=1.0):
    """The honest order; `head` makes another model of it."""
    simulation = site._simulation
    federation = simulation.federation
    server = begin(federation, simulation.head)
    heads = {name: tensor * head for name, tensor in server.state.head.items()}
    payload = join_head(federation.method.dispatch(server.state, site.client, round), heads)
    return Order(kind, round, site.client, cast_floats(payload, federation.spec.wire))


class Asking:
    """A server that may ask for anything."""

    def __init__(self, site, session=10):
        self.site, self.session, self.count = site, session, 0

    def ask(self, order, run="grove-1", number=None):
        self.count += 1
        number = number or (self.session, self.count)
        message = OrderMessage(order, number, run, self.site._digest)
        return decode_answer(self.site.answer(encode(message).data))

    def finish(self, run):
        self.count += 1
        order = order_of(self.site, "evaluate")
        message = FinishMessage(
            order, (self.session, self.count), run, self.site._digest, summarise(self.site._simulation, [])
        )
        return decode_answer(self.site.answer(encode(message).data))


PATHS = ["..", ".", "", "../..", "a/b", "a\\b", "run\u0000", "run name", "x" * 81, "Ü", "site.key"]


@pytest.mark.parametrize("run", PATHS)
def test_a_run_is_no_path(site, run):
    """S12: run `..` in `finish` removed and rewrote `adapter/` beside SITE.toml."""
    beside = site._folder.parent / "adapter"
    beside.mkdir()
    (beside / "precious").write_text("years of work")
    before = sorted(site._folder.parent.rglob("*"))
    for answer in (Asking(site).finish(run), Asking(site).ask(order_of(site), run)):
        assert isinstance(answer, FailureMessage)
    hello = decode_answer(site.answer(encode(Hello(site.shared, run)).data))
    assert isinstance(hello, FailureMessage)
    assert sorted(site._folder.parent.rglob("*")) == before


def test_a_run_has_no_folder_before_its_first_order(site):
    for number in range(5):
        hello = decode_answer(site.answer(encode(Hello(site.shared, f"grove-{number}")).data))
        assert isinstance(hello, Introduction)
    assert list(site._folder.iterdir()) == []


def test_a_folder_that_is_no_runs_is_left_alone(site):
    (site._folder / "thesis" / "adapter").mkdir(parents=True)
    answer = Asking(site).finish("thesis")
    assert isinstance(answer, FailureMessage)
    assert "holds something else" in answer.reason
    assert (site._folder / "thesis" / "adapter").is_dir()


def test_an_order_has_no_larger_rank_than_the_site(site):
    order = order_of(site)
    larger = replace(order, client=replace(order.client, rank=100_000))
    answer = Asking(site).ask(larger)
    assert isinstance(answer, FailureMessage)
    assert answer.reason.endswith("the order has rank 100000, more than this site's 2")


@pytest.mark.parametrize("name", ["my run", "Rückmeldungen", "a/../b", "...", "x" * 300, "日本語"])
def test_every_name_of_a_run_gives_one_that_sites_take(name):
    require_run_name(new_run_name(name))
    with pytest.raises(PayloadError):
        require_run_name(f"{name} ")


def test_a_servers_clock_may_be_set_back_between_runs(site):
    """S15: sites refused every order until they were restarted."""
    assert isinstance(Asking(site, session=10**15).ask(order_of(site), "grove-1"), ReplyMessage)
    assert isinstance(Asking(site, session=5).ask(order_of(site), "grove-2"), ReplyMessage)
    again = Asking(site, session=5).ask(order_of(site), "grove-1")
    assert isinstance(again, FailureMessage)
    assert "older than one served before" in again.reason


def test_a_site_is_scored_once_a_round(site):
    """S22: from the scores of 25 models a server had every label's count."""
    server = Asking(site)
    assert isinstance(server.ask(order_of(site, "evaluate", 2)), ReplyMessage)
    assert isinstance(server.ask(order_of(site, "evaluate", 2)), ReplyMessage)  # the same model once more tells no more
    for other in (order_of(site, "evaluate", 2, head=2.0), order_of(site, "evaluate", 1)):
        refused = server.ask(other)
        assert isinstance(refused, FailureMessage)
        assert "scored once a round" in refused.reason
    assert isinstance(server.ask(order_of(site, "evaluate", 3, head=2.0)), ReplyMessage)


def test_a_round_that_is_trained_again_is_scored_again(site):
    """A server that was started again repeats the round that it had not finished."""
    server = Asking(site)
    assert isinstance(server.ask(order_of(site, "train", 1)), ReplyMessage)
    assert isinstance(server.ask(order_of(site, "evaluate", 2)), ReplyMessage)
    assert isinstance(server.ask(order_of(site, "train", 1)), ReplyMessage)
    assert isinstance(server.ask(order_of(site, "evaluate", 2, head=2.0)), ReplyMessage)


def test_the_log_says_which_round_and_how_well(site, capfd):
    """H8: neither scores nor times, and `round 5: evaluate` in a run of four."""
    server = Asking(site)
    server.ask(order_of(site, "train", 1))
    server.ask(order_of(site, "evaluate", 2))
    assert isinstance(server.finish("grove-1"), Finished)
    trained, scored, finished = capfd.readouterr().out.splitlines()
    time = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d{4} "
    assert_matches(trained, time + r"grove-1, round 1: trained \d+ steps, loss \d\.\d{3}, \d+\.\d s")
    assert_matches(scored, time + r"grove-1, round 1: scored on \d+ examples: accuracy \d+\.\d %, .*, \d+\.\d s")
    assert_matches(finished, time + r"the run grove-1 is over: .*")


def assert_matches(line, pattern):
    assert re.fullmatch(pattern, line), line
