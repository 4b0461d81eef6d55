"""What a site says is not believed further than it has to be: its texts, its name, its number of examples."""

import hashlib
import json
import tomllib
from contextlib import ExitStack

import pytest
import tomli_w
from tests.deploy.conftest import journal_state, lines, thread_site
from tests.deploy.test_harm import Harmful, run, statuses, told

from fedlora.core.rounds import Client, Order, Reply
from fedlora.deploy.connection import Arrival
from fedlora.deploy.messages import Message, decode_message, encode_message
from fedlora.errors import ConfigError, FedloraError, PayloadError
from fedlora.federation.transport import encode_reply
from fedlora.federation.validate import validate_encoded

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
        messages = message_of(decode_message(arrival.data))
        return [Arrival(arrival.node, arrival.ticket, encode_message(message)) for message in messages]

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
            Message(kind, {"number": message.envelope["number"], "reason": text})
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
    hello = Message("hello", {"name": text, "examples": 3, "rank": 1, "shared": {}, "client_state": None})
    run(own, tmp_path / "out", Harmful(own, arrives=replaced(lambda message: [hello, message])))
    assert {line["client"] for line in lines(tmp_path / "out" / "clients.jsonl")} == {"ash", "birch", "cedar"}
    readable(tmp_path / "out")


@pytest.mark.parametrize("text", ["bad \ud800", "bad \x00", "bad \u2028"])
def test_notes_with_such_text_are_refused(text):
    order = Order("train", 1, Client("ash", 3, 1), {})
    for notes in ({"slots": text}, {text: 1}, {"deep": [{"deeper": text}]}):
        answer = validate_encoded(order, *encode_reply(Reply("ash", 1, notes=notes)))
        assert getattr(answer, "reason", None) == "refused: notes that are not plain"
        with pytest.raises(PayloadError):
            decode_message(encode_message(Message("reply", {"reply": {"notes": notes}})))


def test_repeated_keys_and_numbers_that_are_none_are_no_letter():
    good = encode_message(Message("failure", {"reason": "late", "loss": 1.0}))
    assert decode_message(good).kind == "failure"
    for text in ('{"kind": "failure", "kind": "reply"}', '{"kind": "failure", "loss": NaN}', '{"kind": "reply"}' * 2):
        body = len(text).to_bytes(4, "big") + text.encode()
        with pytest.raises(PayloadError):
            decode_message(digest_of(body) + body)


def digest_of(body):
    return hashlib.blake2b(body, digest_size=16).digest()


def hello_under_way(own, **changed):
    """The honest hello of birch, changed."""
    shared = {}

    def harm(arrival, name, round):
        message = decode_message(arrival.data) if arrival.data else None
        if message and message.kind == "hello":
            shared.update(message.envelope["shared"])
        if (name, round) == ("birch", 1):
            changed_hello = Message("hello", {"name": "birch", "examples": 9, "rank": 2, "shared": shared, **changed})
            return [Arrival(arrival.node, arrival.ticket, encode_message(changed_hello)), arrival]
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
    assert any("hello" in what for what in told(tmp_path / "out"))


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
        message = decode_message(arrival.data)
        if message.kind != "hello" or name != "birch":
            return [arrival]
        told_more = Message("hello", {**message.envelope, "examples": 10**12})
        return [Arrival(arrival.node, arrival.ticket, encode_message(told_more))]

    sentence = r"Site birch is refused: .* 1000000000000 training examples, more than deploy.most_examples \(100000\)"
    with pytest.raises(ConfigError, match=sentence):
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
        with pytest.raises(ConfigError, match=r"Site birch is refused: the name 'birch' belongs to node .*site.socket"):
            run(own, tmp_path / "out", Harmful(own), resume=True)
