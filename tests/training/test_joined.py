"""A map and what pairs add to it as one product is what autograd makes of the two, forward and backward."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from fedlora.training.bases import maps
from fedlora.training.forward.current_pass import Pass, running
from fedlora.training.forward.joined import Slots, can_be_joined

TOKENS, D_IN, D_OUT, SLOTS = 7, 5, 6, 4


def numbers(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + sum(shape)))


def linear(bias=True):
    made = nn.Linear(D_IN, D_OUT, bias=bias).double().requires_grad_(False)
    made.weight.copy_(numbers(D_OUT, D_IN))
    if bias:
        made.bias.copy_(numbers(D_OUT))
    return made


def conv1d():
    made = Conv1D(D_OUT, D_IN).double().requires_grad_(False)
    made.weight.copy_(numbers(D_IN, D_OUT))
    return made


def factors():
    return numbers(SLOTS, D_IN).requires_grad_(), numbers(SLOTS, D_OUT, seed=1).requires_grad_()


FOREIGN = torch.arange(SLOTS)[:, None] // 2 != torch.arange(TOKENS)[None] // 4
"""Two clients with two slots each: the first four tokens, and the other three."""


@pytest.mark.parametrize("module", [linear(), linear(bias=False), conv1d()], ids=["linear", "no bias", "conv1d"])
@pytest.mark.parametrize("foreign", [None, FOREIGN], ids=["one client", "two clients"])
@pytest.mark.parametrize("shape", [(TOKENS, D_IN), (1, TOKENS, D_IN)], ids=["flat", "batch"])
def test_outputs_and_gradients_are_those_of_the_two_apart(module, foreign, shape):
    A, columns = factors()
    x = numbers(*shape).requires_grad_()
    added = Slots(A, columns, foreign)
    plain = module(x) + added(x)
    joined = added.joined(module, x)
    torch.testing.assert_close(joined, plain, rtol=1e-12, atol=1e-12)
    slope = numbers(*plain.shape, seed=2)
    apart = torch.autograd.grad(plain, [x, A, columns], slope)
    together = torch.autograd.grad(joined, [x, A, columns], slope)
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_gradients_are_the_slopes_of_its_values():
    module, (A, columns) = linear(), factors()
    x = numbers(TOKENS, D_IN).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, A, c: Slots(A, c, FOREIGN).joined(module, x), (x, A, columns))


@pytest.mark.parametrize("trains", [("A",), ("columns",), ("x",), ("A", "columns")])
def test_what_does_not_train_has_no_gradient_and_changes_none(trains):
    A, columns = factors()
    given = {"x": numbers(TOKENS, D_IN).requires_grad_(), "A": A, "columns": columns}
    given = {name: value.detach().requires_grad_(name in trains) for name, value in given.items()}
    module, added = linear(), Slots(given["A"], given["columns"], FOREIGN)
    (module(given["x"]) + added(given["x"])).sum().backward()
    apart = {name: given[name].grad for name in trains}
    for name in trains:
        given[name].grad = None
    added.joined(module, given["x"]).sum().backward()
    for name, value in given.items():
        if name in trains:
            torch.testing.assert_close(value.grad, apart[name], rtol=1e-12, atol=1e-12)
        else:
            assert value.grad is None


def test_a_client_without_finite_numbers_reaches_no_other():
    A, columns = factors()
    x = numbers(TOKENS, D_IN)
    with torch.no_grad():
        sound = Slots(A, columns, FOREIGN).joined(linear(), x)
        A[:2] = float("inf")  # the first client's
        broken = Slots(A, columns, FOREIGN).joined(linear(), x)
    assert torch.equal(sound[4:], broken[4:])
    assert not torch.isfinite(broken[:4]).all()


def test_it_is_what_an_adapted_map_computes(monkeypatch):
    module = linear()
    maps.adapt("map", module)
    A, columns = factors()
    x = numbers(1, TOKENS, D_IN)
    with running(Pass({"map": Slots(A, columns)})):
        here = module(x)
    with running(Pass({"map": Slots(A, columns).__call__})):  # what it is cannot be seen: by the hook
        hooked = module(x)
    torch.testing.assert_close(here, hooked, rtol=1e-12, atol=1e-12)
    assert torch.equal(module(x), nn.functional.linear(x, module.weight, module.bias))
    monkeypatch.setattr(Slots, "joined", lambda _self, _module, x: x.new_zeros(1))
    with running(Pass({"map": Slots(A, columns)})):
        assert module(x).shape == (1,)


def test_only_frozen_weights_of_the_same_type_are_joined():
    added, x = Slots(*factors()), numbers(TOKENS, D_IN)

    class Quantised(nn.Linear):
        """As those of bitsandbytes: a subclass whose weight is something else."""

    assert can_be_joined(linear(), added, x)
    assert can_be_joined(conv1d(), added, x)
    assert not can_be_joined(linear().requires_grad_(True), added, x)
    assert not can_be_joined(linear().float(), added, x)
    assert not can_be_joined(linear(), added, x.float())
    assert not can_be_joined(linear(), lambda x: x, x)
    assert not can_be_joined(Quantised(D_IN, D_OUT).double().requires_grad_(False), added, x)
