"""What methods refuse, and how they are found and described."""

import pytest
import torch

from fedlora.core.adapter import BOTH, Adapter, AdapterSpec
from fedlora.core.rounds import Client
from fedlora.errors import MethodError, PayloadError
from fedlora.methods import BUILT_IN, find_method
from fedlora.methods.fedit import FedIT
from fedlora.methods.fedsa import FedSA
from fedlora.methods.local import Local
from fedlora.methods.lora_a2 import LoRAA2

SPEC = AdapterSpec({"m": (3, 4)}, rank=2, scale=1.0)


def test_all_are_there():
    names = "lora-a2 fedsa replicate fedit zeropad ffa rolora flexlora hetlora flora fedex florist fedsvd fair full"
    names += " local central base"
    assert list(BUILT_IN) == names.split()


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_method_says_what_it_is(name):
    """The sections that every method's docstring has."""
    for section in ("Idea:", "Formula", "What travels:", "Mixed ranks:", "Exact", "Departures", "Reference:"):
        assert section in BUILT_IN[name].__doc__, f"{name} has no section {section}"


def test_unequal_ranks_where_they_cannot_be():
    clients = [Client("c0", 5, 2), Client("c1", 5, 1)]
    with pytest.raises(MethodError, match=r"Client c1 has rank 1 but fedit takes one rank for all \(2\)"):
        FedIT().check_federation(SPEC, clients)
    for name, kind in BUILT_IN.items():
        if "lora" not in kind().facts.kinds:
            with pytest.raises(MethodError, match=f"adapter.kind is 'lora' but {name} takes"):
                kind().check_federation(SPEC, clients)
        elif kind().facts.mixed_ranks:
            kind().check_federation(SPEC, clients)
        else:
            with pytest.raises(MethodError, match=name):
                kind().check_federation(SPEC, clients)


def test_a_pool_smaller_than_a_budget():
    with pytest.raises(MethodError, match=r"pool_rank is 1 but the largest budget is 2"):
        LoRAA2(pool_rank=1).check_federation(SPEC, [Client("c", 1, 2)])
    for wrong in ({"pool_rank": 0}, {"probe_epochs": 0}):
        with pytest.raises(MethodError, match="must be at least 1"):
            LoRAA2(**wrong)


def test_finding_methods(tmp_path):
    assert find_method("fedit") is FedIT
    with pytest.raises(MethodError, match="did you mean 'fedit'"):
        find_method("fedlt")
    file = tmp_path / "mine.py"
    file.write_text("from fedlora.methods.fedit import FedIT\nclass Mine(FedIT):\n    name = 'mine'\nother = 3\n")
    assert find_method(f"{file}:Mine").name == "mine"
    for wrong, sentence in ((f"{file}:other", "no class"), (f"{file}x:Mine", "no file")):
        with pytest.raises(MethodError, match=sentence):
            find_method(wrong)
    file.write_text("1 / 0")
    with pytest.raises(MethodError, match=r"does not load: .*mine.py:1: ZeroDivisionError"):
        find_method(f"{file}:Mine")


def test_a_payload_that_does_not_fit_is_refused():
    client = Client("c", 1, 2)
    for payload in (
        {},
        {"input": {"other": torch.zeros(2, 4)}},
        {"input": {"m": torch.zeros(2, 5)}},
        {"input": {"m": torch.zeros(2, 4)}, "output": {"m": torch.zeros(3, 1)}},
    ):
        with pytest.raises(PayloadError):
            FedIT().receive(payload, {}, client, SPEC)


def test_zeros_are_implied_and_a_private_side_is_the_clients_own():
    client = Client("c", 1, 2)
    state = FedSA().init(SPEC, 0)
    sent = FedSA().dispatch(state, client, 1)
    assert list(sent) == ["input"]
    start = FedSA().receive(sent, {"output": {"m": torch.ones(3, 2)}}, client, SPEC)
    assert start.adapter.output["m"].eq(1).all()
    assert not FedSA().receive(sent, {}, client, SPEC).adapter.output["m"].any()


def test_a_start_with_b_reaches_a_personal_method_once():
    """FedSA goes on from an adapter: the common B is sent at first contact, later the client has its own."""
    begun = Adapter({"m": torch.ones(2, 4)}, {"m": torch.ones(3, 2)})
    spec = AdapterSpec({"m": (3, 4)}, rank=2, scale=1.0, start=begun)
    for method in (FedSA(), Local()):
        state = method.init(spec, 0)
        assert set(method.dispatch(state, Client("c", 1, 2), 1)) == BOTH
        assert "output" not in method.dispatch(state, Client("c", 1, 2, last_seen_round=1), 2)
