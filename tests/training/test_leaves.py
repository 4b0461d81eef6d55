"""Tensors end to end in one vector: what torch's optimisers make of the tensors one by one."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from fedlora.core.lowrank import LowRank
from fedlora.training.bases.maps import addition
from fedlora.training.forward.joined import Slots
from fedlora.training.leaves import Leaves

SHAPES = {"a": (3, 5), "b": (4,), "c": (2, 0), "d": (1, 7)}


def drawn(seed=0):
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=draw) for name, shape in SHAPES.items()}


def loss(tensors, step):
    return sum(((step + 1) * tensor - 1).square().sum() for tensor in tensors.values())


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_a_step_of_the_vector_is_a_step_of_each_tensor(kind):
    start = drawn()
    leaves = Leaves(start, "cpu")
    one_by_one = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
    flat = kind([leaves.vector], lr=1e-2, weight_decay=0.1, fused=True)
    plain = kind(one_by_one.values(), lr=1e-2, weight_decay=0.1, foreach=False)
    for step in range(5):
        leaves.forget_gradient()
        plain.zero_grad()
        for part in (0, 1):  # two portions of a batch: gradients add up
            loss(leaves.named, step + part).backward()
            loss(one_by_one, step + part).backward()
        assert leaves.cut(leaves.gradient()).keys() == start.keys()
        leaves.ready_gradient()
        flat.step()
        leaves.restore_held()
        plain.step()
    for name, tensor in leaves.cut(leaves.vector).items():
        assert tensor.equal(leaves.named[name])
        torch.testing.assert_close(tensor, one_by_one[name].detach(), rtol=1e-6, atol=1e-6)
    assert all(tensor.equal(drawn()[name]) for name, tensor in start.items())  # they are copies


def test_numbers_that_are_held_keep_their_bits_and_others_do_not_notice():
    start = drawn()
    moves = {"a": torch.tensor([True, False, True])[:, None], "d": torch.tensor([[True] * 3 + [False] * 4])}
    held, free = Leaves(start, "cpu"), Leaves(start, "cpu")
    held.hold(moves)
    for leaves in (held, free):
        optimizer = torch.optim.AdamW([leaves.vector], lr=1e-2, weight_decay=0.5, fused=True)
        for step in range(3):
            leaves.forget_gradient()
            loss(leaves.named, step).backward()
            leaves.ready_gradient()
            optimizer.step()
            leaves.restore_held()
    for name, tensor in held.named.items():
        mask = moves.get(name, torch.tensor(True)).expand(tensor.shape)
        assert tensor[~mask].equal(start[name][~mask])
        assert tensor[mask].equal(free.named[name][mask])
        assert not tensor[mask].eq(start[name][mask]).any()


def test_a_tensor_without_a_gradient_has_a_zero_one():
    leaves = Leaves(drawn(), "cpu")
    leaves.named["b"].sum().backward()
    assert [bool(part.any()) for part in leaves.cut(leaves.gradient()).values()] == [False, True, False, False]


def test_what_is_cut_out_shares_no_memory():
    leaves = Leaves(drawn(), "cpu")
    before = leaves.cut(leaves.vector)
    leaves.vector.zero_()
    assert before["a"].all()
    assert not leaves.named["a"].any()


@pytest.mark.parametrize("shape", [(6,), (2, 6), (2, 3, 6)])
def test_low_rank_products_and_their_gradients_are_the_plain_ones(shape):
    draw = torch.Generator().manual_seed(0)
    x, A, B = (
        torch.randn(size, generator=draw, dtype=torch.float64).requires_grad_() for size in (shape, (2, 6), (5, 2))
    )
    merged = torch.randn(5, 6, generator=draw, dtype=torch.float64)
    found = addition([LowRank(A, B), merged], 1.7, 0.0)(x)
    expected = 1.7 * (x @ A.T @ B.T + x @ merged.T)
    torch.testing.assert_close(found, expected)
    weights = torch.randn(found.shape, generator=draw, dtype=torch.float64)
    for one, other in zip(
        *(torch.autograd.grad((y * weights).sum(), (x, A, B)) for y in (found, expected)), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_slots_of_others_are_set_to_zero_and_not_multiplied_by_it():
    x, A, B = torch.ones(2, 3), torch.tensor([[1.0] * 3, [torch.inf] * 3]), torch.ones(4, 2)
    foreign = torch.tensor([[False, True], [True, False]])
    found = Slots(A, B.T.contiguous(), foreign)(x)
    assert found[0].equal(torch.full((4,), 3.0))
    assert found[1].isinf().all()


def test_a_step_takes_as_many_operations_for_many_tensors_as_for_few():
    """But for laying the gradients end to end, which is one."""
    counts = []
    for number in (2, 50):
        leaves = Leaves({str(k): torch.randn(3, 4) for k in range(number)}, "cpu")
        leaves.hold({"0": torch.zeros(3, 1, dtype=torch.bool)})
        optimizer = torch.optim.AdamW([leaves.vector], fused=True)
        for leaf in leaves.named.values():
            leaf.grad = torch.ones_like(leaf)
        with profile(activities=[ProfilerActivity.CPU]) as told:
            leaves.ready_gradient()
            optimizer.step()
            leaves.restore_held()
        views = ("view", "reshape", "alias")
        counts.append(sum(event.count for event in told.key_averages() if not any(v in event.key for v in views)))
    assert counts[0] == counts[1]
