"""Several devices: a base on each, batches of clients on all of them at once, the bits of a single one."""

import copy

import pytest
import torch

from fedlora.app.build.simulation import build, load
from fedlora.app.config.schema import read_config
from fedlora.core.payload import to_bytes
from fedlora.federation.server import begin, federate


def trained(path):
    """What the server holds after every round, the scores, and where clients were trained."""
    simulation = build(read_config(path), workers=2)
    federation = simulation.federation
    steps = list(federate(federation, begin(federation, simulation.head)))
    scores = [(client.client, client.status, client.score) for _, record in steps for client in record.clients]
    return [to_bytes(server.to_payload()) for server, _ in steps], scores


@pytest.mark.parametrize("method", ["fedit", "lora-a2"])
def test_two_devices_give_the_bits_of_one(config, method):
    section = {"name": method}
    one = trained(config(split={"clients": 5}, method=section))
    two = trained(config(split={"clients": 5}, method=section, run={"device": ["cpu", "cpu"]}))
    assert one == two


def test_every_device_has_weights_of_its_own(config):
    """A fault planted in the second base is seen in the run, and does not reach the first one."""
    settings = read_config(config(split={"clients": 4}, run={"device": ["cpu", "cpu"]}))
    resources = load(settings)
    base, (other,) = resources.base, resources.others
    theirs = dict(other.model.named_parameters())
    for name, weight in base.model.named_parameters():
        assert weight.equal(theirs[name])
        assert weight.data_ptr() != theirs[name].data_ptr()
    before = copy.deepcopy(base.model.state_dict())

    def losses():
        simulation = build(settings, resources)
        federation = simulation.federation
        ((_, record), *_) = federate(federation, begin(federation, simulation.head))
        return {client.client: client.loss for client in record.clients}

    sound = losses()
    with torch.no_grad():
        for weight in other.model.parameters():
            weight.mul_(1.5)
    faulty = losses()
    assert [client for client in sound if sound[client] != faulty[client]] == sorted(sound)[1::2]
    assert all(tensor.equal(before[name]) for name, tensor in base.model.state_dict().items())


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"run": {"device": ["cpu", "abacus"]}}, "run.device is 'abacus', which cannot be used here"),
        ({"run": {"device": []}}, "run.device"),
        (
            {"run": {"device": ["cpu", "cpu"]}, "train": {"dropout": 0.1}},
            "run.device names 2 devices and train.dropout is 0.1",
        ),
    ],
)
def test_devices_that_do_not_fit_are_refused(config, command, sections, sentence):
    code, _, err = command("run", config(**sections))
    assert code == 2
    assert sentence in err
    assert "Traceback" not in err
