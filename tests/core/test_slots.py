"""Slot sums and the choice of slots against slow loops."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedlora.core.adapter import SIDES, Adapter
from fedlora.core.lowrank import LowRank, delta
from fedlora.core.slots import Sparse, contribution, index_type, slot_sums, top_slots
from fedlora.errors import PayloadError


def whole(ranks, d_in=4, d_out=3):
    A = {f"m{i}": torch.randn(r, d_in) for i, r in enumerate(ranks)}
    return Adapter(A, {m: torch.randn(d_out, a.shape[0]) for m, a in A.items()})


def vector(side, tensor, slot):
    return tensor[slot] if side == "input" else tensor[:, slot]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 4)), min_size=1, max_size=4))
def test_sums_of_first_slots_against_a_loop_over_slots(clients):
    like = whole([4, 4])
    sent = [(float(n), whole([r, r])) for n, r in clients]
    sums = slot_sums(like, ((n, {side: a.side(side) for side in SIDES}) for n, a in sent))
    total = sum(n for n, _ in sent)
    for side in SIDES:
        kept = sums.keep_unowned(side, sums.owners_mean(side), like.side(side))
        for module in like.input:
            for slot in range(4):
                owners = [(n, a) for n, a in sent if a.input[module].shape[0] > slot]
                added = sum(
                    (n * vector(side, a.side(side)[module], slot).double() for n, a in owners),
                    torch.zeros(4 if side == "input" else 3, dtype=torch.float64),
                )
                share = sum(n for n, _ in owners)
                mean = vector(side, sums.mean(side)[module], slot)
                torch.testing.assert_close(mean, added / total)
                expected = added / share if owners else vector(side, like.side(side)[module], slot).double()
                torch.testing.assert_close(vector(side, kept[module], slot).double(), expected)
                # zero padding = replication x the owners' weight share, factor by factor, slot by slot
                torch.testing.assert_close(mean, expected * (share / total) if owners else mean * 0)


def test_sums_of_chosen_slots_scatter_them_to_their_places():
    like = whole([3])
    first = {"output": {"m0": Sparse(torch.tensor([0, 2], dtype=torch.uint8), torch.ones(3, 2))}}
    second = {"output": {"m0": Sparse(torch.tensor([2]), 5 * torch.ones(3, 1))}}
    sums = slot_sums(like, [(1.0, first), (3.0, second)])
    assert torch.equal(sums.mean("output")["m0"][0], torch.tensor([1, 0, 16], dtype=torch.float64) / 4)
    assert torch.equal(sums.owners_mean("output")["m0"][0], torch.tensor([1, 0, 4], dtype=torch.float64))
    assert torch.equal(sums.owned["output"]["m0"], torch.tensor([1, 0, 4], dtype=torch.float64))


@pytest.mark.parametrize(
    "part",
    [
        {"input": {"unknown": torch.zeros(1, 4)}},
        {"input": {"m0": torch.zeros(1, 5)}},
        {"input": {"m0": torch.zeros(4, 4)}},
        {"input": {"m0": Sparse(torch.tensor([3]), torch.zeros(1, 4))}},
        {"input": {"m0": Sparse(torch.tensor([-1]), torch.zeros(1, 4))}},
        {"input": {"m0": Sparse(torch.tensor([1, 1]), torch.zeros(2, 4))}},
        {"output": {"m0": Sparse(torch.tensor([0, 1]), torch.zeros(3, 1))}},
    ],
    ids=[
        "module",
        "width",
        "too many slots",
        "slot too high",
        "negative slot",
        "repeated slot",
        "counts differ",
    ],
)
def test_what_was_not_ordered_is_refused(part):
    with pytest.raises(PayloadError):
        slot_sums(whole([3]), [(1.0, part)])


@given(st.integers(0, 99), st.integers(1, 5))
def test_contribution_is_the_norm_of_each_outer_product(seed, r):
    torch.manual_seed(seed)
    A, dB = torch.randn(r, 6), torch.randn(5, r)
    scores = contribution("output", {"m": dB}, {"m": A})["m"]
    other = contribution("input", {"m": A}, {"m": dB})["m"]
    for slot in range(r):
        product = delta(LowRank(A[slot : slot + 1], dB[:, slot : slot + 1]))
        assert float(scores[slot]) == pytest.approx(float(product.norm()), rel=1e-5)
    assert torch.equal(scores, other)


def test_the_choice_is_one_for_the_whole_model():
    scores = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([9.0, 8.0]), "c": torch.tensor([0.0, 0.0])}
    chosen = top_slots(scores, 3)
    assert {m: mask.tolist() for m, mask in chosen.items()} == {
        "a": [False, True],
        "b": [True, True],
        "c": [False, False],
    }


def test_equal_scores_go_to_the_earlier_module_then_the_earlier_slot():
    chosen = top_slots({"a": torch.zeros(2), "b": torch.zeros(2)}, 3)
    assert {m: mask.tolist() for m, mask in chosen.items()} == {"a": [True, True], "b": [True, False]}


def test_slot_numbers_take_the_smallest_type():
    assert [index_type(n) for n in (1, 256, 257, 40000)] == [
        torch.uint8,
        torch.uint8,
        torch.int16,
        torch.int32,
    ]
