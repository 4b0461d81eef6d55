"""What a site says is not believed further than it has to be: its texts, its name, its number of examples."""

import json
import tomllib
from contextlib import ExitStack

import pytest
import tomli_w
from tests.deploy.conftest import journal_state, lines, thread_site
from tests.deploy.test_harm import Harmful, run, statuses, told

from fedlora.core.metrics import Score
from fedlora.core.rounds import Client, Order, Reply
from fedlora.deploy.connection import Arrival
from fedlora.deploy.remote import AbsentError
from fedlora.errors import FedloraError, PayloadError
from fedlora.federation.frame import Frame, decode_frame, encode_frame, pack
from fedlora.federation.validate import received, validate_reply
from fedlora.federation.wire import (
    FailureMessage,
    Finished,
    FinishMessage,
    Hello,
    Introduction,
    OrderMessage,
    Refusal,
    ReplyMessage,
    decode_answer,
    decode_request,
    encode,
    encode_reply,
)

NASTY = {
    "half a surrogate pair": "bad \ud800",
    "a control character": "bad \x1b[2J",
    "a second line": "bad\nround 3: all is well",
    "too long": "x" * 1_000_000,
}


def replaced(message_of, when=("birch", 1)):
    """Does harm once: in place of a site's answer in a round comes another message."""

    def harm(arrival, name, round):
        if (name, round) != when:
            return [arrival]
        messages = message_of(decode_frame(arrival.data))
        return [Arrival(arrival.node, arrival.ticket, encode_frame(message).data) for message in messages]

    return harm


def readable(out):
    """Every record of a run, as any reader of JSON lines sees it."""
    for name in ("rounds.jsonl", "clients.jsonl", "deliveries.jsonl"):
        text = (out / name).read_text(encoding="utf-8", errors="strict")
        assert len(text) < 50_000
        assert not any(ord(character) < 32 and character != "\n" for character in text)
        for line in text.splitlines():
            assert not any(ord(character) < 32 for character in "".join(map(str, json.loads(line).values())))


@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)
@pytest.mark.parametrize("key", ["reason", "kind"])
def test_no_text_of_a_site_stops_the_run_or_spoils_its_records(world, threads, tmp_path, key, text):
    own = world("fedsa")
    threads(own)

    def harm(message):
        kind = text if key == "kind" else "failure"
        return [
            Frame(kind, {"number": message.fields["number"], "reason": text, "failure": "error"})
        ] * 2  # the second is dropped, and noted

    run(own, tmp_path / "out", Harmful(own, arrives=replaced(harm)))
    assert statuses(tmp_path / "out", "ash") == statuses(tmp_path / "out", "cedar") == ["accepted"] * 2
    first, second = statuses(tmp_path / "out", "birch")
    assert first != "accepted"
    assert second == "accepted"
    readable(tmp_path / "out")


@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)
def test_no_name_of_a_site_stops_the_run(world, threads, tmp_path, text):
    """A fourth node, after the run has begun: its hello is noted and it stays outside."""
    own = world("fedsa")
    threads(own)
    hello = Frame("introduction", {"name": text, "examples": 3, "rank": 1, "shared": {}})
    run(own, tmp_path / "out", Harmful(own, arrives=replaced(lambda message: [hello, message])))
    assert {line["client"] for line in lines(tmp_path / "out" / "clients.jsonl")} == {"ash", "birch", "cedar"}
    readable(tmp_path / "out")


@pytest.mark.parametrize("text", ["bad \ud800", "bad \x00", "bad \u2028"])
def test_notes_with_such_text_are_refused(text):
    order = Order("train", 1, Client("ash", 3, 1), {})
    for notes in ({"slots": text}, {text: 1}, {"deep": [{"deeper": text}]}):
        reply = Reply("ash", 1, notes=notes)
        assert validate_reply(reply, order).reason == "refused: notes that are not plain"
        assert received(order, encode_reply(reply).data).reason.startswith("refused: text with control characters")


def test_repeated_keys_and_numbers_that_are_none_are_no_message():
    good = '{"kind": "failure", "number": [1, 2], "reason": "late", "failure": "error"}'
    assert decode_answer(pack(good.encode(), b"")).reason == "late"
    for text in (
        good.replace('"failure",', '"failure", "kind": "reply",', 1),
        good.replace('"late"', '"late", "reason": "early"'),
        good.replace("[1, 2]", "[1, NaN]"),
        good * 2,
    ):
        with pytest.raises(PayloadError):
            decode_frame(pack(text.encode(), b""))


@pytest.mark.parametrize(
    "changed",
    [
        {"number": [1, 2, 3]}, {"number": [True, 2]}, {"number": "1"}, {"number": {}}, {"reason": 3}, {"reason": None},
        {"failure": "refused"}, {"failure": "no answer"}, {"failure": ["error"]}, {"failure": None}, {"more": 1},
    ],
)  # fmt: skip
def test_a_failure_has_the_form_of_one(changed):
    """What a server alone can find out (a refusal, silence) no site can claim."""
    fields = {"number": [1, 2], "reason": "late", "failure": "error", **changed}
    with pytest.raises(PayloadError):
        decode_answer(encode_frame(Frame("failure", fields)).data)


@pytest.mark.parametrize(
    "said",
    [
        Hello({"a": "1"}, "grove"),
        OrderMessage(Order("train", 1, Client("ash", 3, 1, 2), {"x": 1}), (1, 2), "grove", "digest"),
        FinishMessage(Order("evaluate", 1, Client("ash", 3, 1), {}), (1, 2), "grove", "digest", {"rounds": 2}),
    ],
    ids=lambda said: type(said).__name__,
)
def test_a_site_reads_what_a_server_says_and_no_server_does(said):
    data = encode(said).data
    assert encode(decode_request(data)).data == data
    with pytest.raises(PayloadError):
        decode_answer(data)


@pytest.mark.parametrize(
    "said",
    [
        Introduction(Client("ash", 3, 1), {"a": "1"}),
        Refusal("ash", "no", {}),
        ReplyMessage(Reply("ash", 1, loss=0.5, score=Score(3, {"loss": 1.0}), notes={"a": [1]}), b"abc", (1, 2)),
        FailureMessage("late", "state lost", (1, 2)),
        FailureMessage("what was that?"),
        Finished((1, 2)),
    ],
    ids=lambda said: type(said).__name__,
)
def test_a_server_reads_what_a_site_says_and_no_site_does(said):
    data = encode(said).data
    assert encode(decode_answer(data)).data == data
    with pytest.raises(PayloadError):
        decode_request(data)


def hello_under_way(own, **changed):
    """The honest hello of birch, changed."""
    shared = {}

    def harm(arrival, name, round):
        message = decode_frame(arrival.data) if arrival.data else None
        if message and message.kind == "introduction":
            shared.update(message.fields["shared"])
        if (name, round) == ("birch", 1):
            said = {"name": "birch", "examples": 9, "rank": 2, "shared": shared, **changed}
            changed_hello = Frame("introduction", said)
            return [Arrival(arrival.node, arrival.ticket, encode_frame(changed_hello).data), arrival]
        return [arrival]

    return Harmful(own, arrives=harm)


def test_a_node_has_one_name(world, threads, tmp_path):
    """A node that answers an order with a hello under another name would have two votes."""
    own = world("fedsa")
    own.simulate(tmp_path / "simulated")
    threads(own)
    run(own, tmp_path / "out", hello_under_way(own, name="birch-again"))
    assert {line["client"] for line in lines(tmp_path / "out" / "clients.jsonl")} == {"ash", "birch", "cedar"}
    assert journal_state(tmp_path / "out") == journal_state(tmp_path / "simulated")
    assert any("introduction" in what for what in told(tmp_path / "out"))


def test_a_second_hello_does_not_change_the_number_of_examples(world, threads, tmp_path):
    own = world("fedsa")
    own.simulate(tmp_path / "simulated")
    threads(own)
    run(own, tmp_path / "out", hello_under_way(own, examples=90_000))
    for name in ("ash", "birch", "cedar"):
        counts = {line["examples"] for line in lines(tmp_path / "out" / "clients.jsonl") if line["client"] == name}
        assert len(counts) == 1
    assert journal_state(tmp_path / "out") == journal_state(tmp_path / "simulated")


def test_a_site_cannot_count_for_more_than_was_agreed(world, threads, tmp_path):
    own = world("fedsa")
    threads(own)

    def inflate(arrival, name, round):
        message = decode_frame(arrival.data)
        if message.kind != "introduction" or name != "birch":
            return [arrival]
        told_more = Frame("introduction", {**message.fields, "examples": 10**12})
        return [Arrival(arrival.node, arrival.ticket, encode_frame(told_more).data)]

    sentence = r"Site birch is refused: .* 1000000000000 training examples, more than deploy.most_examples \(100000\)"
    with pytest.raises(AbsentError, match=sentence):
        run(own, tmp_path / "out", Harmful(own, arrives=inflate))


def test_a_large_honest_site_counts_for_the_agreed_number(world, processes, tmp_path):
    own = world("fedsa", deploy={"most_examples": 30})
    processes(*own.sites())
    own.deploy(tmp_path / "out")
    counts = {line["client"]: line["examples"] for line in lines(tmp_path / "out" / "clients.jsonl")}
    whole = {name: len(lines(own.site(name).parent / "data" / "train.jsonl")) for name in counts}
    assert max(whole.values()) > 30
    assert counts == {name: min(count, 30) for name, count in whole.items()}
    assert all(status == "accepted" for name in counts for status in statuses(tmp_path / "out", name))


def test_another_node_cannot_take_a_name_when_the_run_goes_on(world, tmp_path):
    own = world("fedsa", rounds=3)
    with ExitStack() as stack:
        for path in own.sites():
            stack.enter_context(thread_site(path))
        with pytest.raises(FedloraError, match="Round 2"):
            run(own, tmp_path / "out", Harmful(own, sends=lambda name, round: round != 2))
    tree = tomllib.loads(own.site("birch").read_text())
    tree["site"]["address"] = "elsewhere.socket"
    own.site("birch").write_text(tomli_w.dumps(tree))
    with ExitStack() as stack:
        for path in own.sites():
            stack.enter_context(thread_site(path))
        with pytest.raises(AbsentError, match=r"Site birch is refused: the name 'birch' belongs to node .*site.socket"):
            run(own, tmp_path / "out", Harmful(own), resume=True)
