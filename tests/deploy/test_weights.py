"""Weights other than numbers of examples: the same over sites as in a simulation, and nothing that cannot be."""

import pytest
import tomli_w
from tests.deploy.conftest import lines
from tests.deploy.test_agreement import agree

from fedlora.app.build.simulation import load
from fedlora.app.build.weights import require_weight
from fedlora.app.config.schema import make_config
from fedlora.core.rounds import Client, Order
from fedlora.deploy.sites import Member, Members, read_members
from fedlora.errors import ConfigError, PayloadError
from fedlora.federation.frame import Frame, encode_frame
from fedlora.federation.wire import Introduction, OrderMessage, decode_answer, decode_request, encode


@pytest.fixture
def generating(world, smallest_decoder):
    """A federation that tunes a language model on the sites' texts."""

    def made(weights):
        found = world("fedit")
        for tree in (found.simulated, found.shared):
            tree["model"] = {"base": str(smallest_decoder), "task": "generate", "max_length": 64}
            tree["clients"] = {**tree.get("clients", {}), "weights": weights}
        (found.folder / "federation.toml").write_text(tomli_w.dumps(found.shared))
        return found

    return made


@pytest.mark.parametrize("weights", ["tokens", "equal"])
def test_sites_count_as_in_the_simulation(generating, threads, tmp_path, weights):
    found = generating(weights)
    found.simulate(tmp_path / "simulated")
    threads(found)
    found.deploy(tmp_path / "deployed")
    agree(tmp_path / "simulated", tmp_path / "deployed")
    loaded = load(make_config(found.simulated))
    learned = loaded.train.supervised_lengths
    for line in lines(tmp_path / "deployed/clients.jsonl"):
        expected = int(learned[loaded.split.clients[line["client"]].train].sum()) if weights == "tokens" else 1
        assert line["weight"] == expected
        assert line["examples"] != expected


@pytest.mark.parametrize(
    ("weights", "weight", "told"),
    [
        ("examples", 5.0, "expected none besides its number of examples"),
        ("equal", 2.0, "expected 1."),
        ("equal", None, "expected 1."),
        ("tokens", None, "expected 1 to 300 learned tokens"),
        ("tokens", 301.0, "expected 1 to 300 learned tokens"),
        ("tokens", 0.5, "expected 1 to 300 learned tokens"),
    ],
)
def test_a_site_that_says_another_weight_is_refused(weights, weight, told):
    config = make_config({"clients": {"weights": weights}, "model": {"task": "generate", "max_length": 100}})
    with pytest.raises(ConfigError, match=told):
        require_weight(config, Client("ash", 3, 1, counted_as=weight))
    fitting = {"examples": None, "equal": 1.0, "tokens": 300.0}[weights]
    require_weight(config, Client("ash", 3, 1, counted_as=fitting))


@pytest.mark.parametrize("weight", [None, 1.0, 0.25, 12345.0])
def test_a_weight_survives_to_bytes_and_back(weight):
    client = Client("ash", 3, 1, counted_as=weight)
    assert decode_answer(encode(Introduction(client, {})).data).client == client
    order = OrderMessage(Order("train", 1, client, {}), (1, 1), "run", "digest")
    assert decode_request(encode(order).data).order.client == client
    members = Members({"ash": Member("node", client)})
    assert read_members(members.to_json())["ash"].client == client


@pytest.mark.parametrize("weight", [0, -1.0, "3", True, 1e300])
def test_a_weight_that_cannot_be_is_no_message(weight):
    fields = {"name": "ash", "examples": 3, "rank": 1, "weight": weight, "shared": {}}
    with pytest.raises(PayloadError, match="a weight that cannot be"):
        decode_answer(encode_frame(Frame("introduction", fields)).data)


def test_a_site_does_not_change_its_weight_on_the_way():
    members = Members()
    members.join("node", Client("ash", 3, 1, counted_as=20.0))
    with pytest.raises(PayloadError, match="weight 20 and rank 1 at first, and says 3 examples, weight 25 and rank 1"):
        members.join("node", Client("ash", 3, 1, counted_as=25.0))
