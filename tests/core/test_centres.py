"""Robust centres, choices within a budget and penalties, against loops that cannot be wrong."""

import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedlora.core.adapter import Adapter
from fedlora.core.centres import slot_centres
from fedlora.core.penalties import Proximal, Tail, penalty, tail_products
from fedlora.core.slots import Sparse, affordable_slots, sensitivity, top_slots

D_IN, D_OUT, SLOTS = 3, 2, 4
LIKE = Adapter({"m": torch.zeros(SLOTS, D_IN)}, {"m": torch.zeros(D_OUT, SLOTS)})


def trimmed(values, trim):
    """The plain rule on a list of numbers."""
    if trim is None:
        return statistics.median(values)
    cut = min(int(trim * len(values)), (len(values) - 1) // 2)
    return statistics.fmean(sorted(values)[cut : len(values) - cut])


@given(
    st.lists(st.frozensets(st.integers(0, SLOTS - 1)), min_size=1, max_size=6),
    st.sampled_from([None, 0.0, 0.2, 0.4]),
)
def test_centres(owned, trim):
    draw = torch.Generator().manual_seed(len(owned))
    sent = [{slot: torch.randn(D_OUT, generator=draw) for slot in sorted(slots)} for slots in owned]
    parts = []
    for own in sent:
        values = torch.stack(list(own.values()), dim=1) if own else torch.zeros(D_OUT, 0)
        parts.append({"output": {"m": Sparse(torch.tensor(list(own), dtype=torch.long), values)}})
    centres = slot_centres(LIKE, iter(parts), trim)
    all_clients, owners = centres.mean("output")["m"], centres.owners_mean("output")["m"]
    for slot in range(SLOTS):
        for row in range(D_OUT):
            own = [float(client[slot][row]) for client in sent if slot in client]
            padded = own + [0.0] * (len(sent) - len(own))
            assert float(all_clients[row, slot]) == pytest.approx(trimmed(padded, trim), abs=1e-6)
            assert float(owners[row, slot]) == pytest.approx(trimmed(own, trim) if own else 0.0, abs=1e-6)
    old = {"m": torch.full((D_OUT, SLOTS), 7.0)}
    kept = centres.keep_unowned("output", centres.owners_mean("output"), old)["m"]
    for slot in range(SLOTS):
        assert kept[:, slot].eq(7.0).all() == (not any(slot in client for client in sent))


def test_one_liar_does_not_move_the_median():
    honest = [{"input": {"m": torch.full((SLOTS, D_IN), 1.0 + k / 10)}} for k in range(4)]
    liar = {"input": {"m": torch.full((SLOTS, D_IN), 1e6)}}
    assert float(slot_centres(LIKE, [*honest, liar], None).mean("input")["m"].max()) < 1.5
    assert float(slot_centres(LIKE, [*honest, liar], 0.2).mean("input")["m"].max()) < 1.5
    assert float(slot_centres(LIKE, [*honest, liar], 0.0).mean("input")["m"].max()) > 1e5


SCORES = st.lists(st.integers(0, 5), min_size=1, max_size=6)


@given(SCORES, SCORES, st.integers(1, 4), st.integers(1, 4), st.integers(0, 20))
def test_a_budget_is_never_exceeded_and_only_what_does_not_fit_is_skipped(one, other, cheap, dear, budget):
    scores = {"a": torch.tensor(one, dtype=torch.float64), "b": torch.tensor(other, dtype=torch.float64)}
    costs = {"a": cheap, "b": dear}
    slots = [("a", i) for i in range(len(one))] + [("b", i) for i in range(len(other))]
    left, expected = budget, set()
    for module, slot in sorted(slots, key=lambda own: -float(scores[own[0]][own[1]])):  # sorted keeps ties in order
        if costs[module] <= left:
            expected.add((module, slot))
            left -= costs[module]
    masks = affordable_slots(scores, costs, budget)
    assert {(m, i) for m, mask in masks.items() for i in mask.nonzero().flatten().tolist()} == expected


def test_at_equal_costs_a_budget_is_a_count():
    scores = {"a": torch.tensor([1.0, 5.0, 3.0]), "b": torch.tensor([4.0, 2.0])}
    same = affordable_slots(scores, {"a": 10, "b": 10}, 35)
    assert all(same[module].equal(mask) for module, mask in top_slots(scores, 3).items())


def test_sensitivity():
    """|weight x gradient| summed along the slot: rows of A, columns of B."""
    value, slope = torch.tensor([[1.0, -2.0], [3.0, 0.0]]), torch.tensor([[2.0, 1.0], [-1.0, 5.0]])
    assert sensitivity("input", {"m": value}, {"m": slope})["m"].tolist() == [4.0, 3.0]
    assert sensitivity("output", {"m": value}, {"m": slope})["m"].tolist() == [5.0, 2.0]


def test_penalties():
    """Proximal: 1/2 * 0.5 * (4 * 1^2 of A) = 1. Tail from slot 1: 0.1 * |[3 4]| * |[0 12 5]| = 0.1 * 5 * 13."""
    A = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    B = torch.tensor([[1.0, 0.0], [2.0, 12.0], [3.0, 5.0]], requires_grad=True)
    now = Adapter({"m": A}, {"m": B})
    start = Adapter({"m": A.detach() - 1.0}, {"m": B.detach() + 9.0})
    assert penalty((Proximal(0.5, frozenset({"input"})),), now, start).item() == pytest.approx(1.0)
    assert penalty((Tail(0.1, 1),), now, start).item() == pytest.approx(6.5)
    assert tail_products(now, 2)["m"].item() == 0.0
    assert not penalty((), now, start).requires_grad


def test_the_tail_has_a_finite_gradient_at_the_start():
    A, B = torch.randn(3, 4, requires_grad=True), torch.zeros(5, 3, requires_grad=True)
    penalty((Tail(1.0, 1),), Adapter({"m": A}, {"m": B}), Adapter({"m": A}, {"m": B})).backward()
    assert not A.grad.any()
    assert not B.grad.any()
