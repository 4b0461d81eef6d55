"""The algebra of updates, by hand, and the way to the wire and back."""

import pytest
import torch

from fedlora.core.payload import from_bytes, to_bytes
from fedlora.core.rounds import Client
from fedlora.core.slots import Sparse
from fedlora.core.update import Update
from fedlora.errors import PayloadError

CLIENT = Client("c0", 3, 2)


def update(A, head=None, **others):
    return Update(CLIENT, {"input": {"m": torch.tensor(A)}}, {"w": torch.tensor(head or [0.0])}, **others)


def test_the_norm_is_that_of_everything_the_head_included():
    """3, 4 and 12: sides alone have norm 5, with the head 13."""
    assert update([[3.0, 4.0]]).norm() == 5.0
    assert update([[3.0, 4.0]], [12.0]).norm() == 13.0
    chosen = Update(CLIENT, {"output": {"m": Sparse(torch.tensor([9]), torch.tensor([[3.0], [4.0]]))}})
    assert chosen.norm() == 5.0
    assert Update(CLIENT).norm() == 0.0


def test_minus_and_plus():
    change = update([[3.0, 4.0]], [5.0]).minus(update([[1.0, 1.0]], [2.0]))
    assert change.sides["input"]["m"].tolist() == [[2.0, 3.0]]
    assert change.head["w"].tolist() == [3.0]
    back = change.scaled(0.5).plus(update([[1.0, 1.0]], [2.0]))
    assert back.sides["input"]["m"].tolist() == [[2.0, 2.5]]
    assert back.head["w"].tolist() == [3.5]


def test_what_the_other_lacks_is_zero_and_of_more_slots_the_first_count():
    mine = update([[3.0, 4.0]])
    assert mine.minus(Update(CLIENT)).sides["input"]["m"].tolist() == [[3.0, 4.0]]
    assert mine.minus(update([[1.0, 1.0], [7.0, 7.0]])).sides["input"]["m"].tolist() == [[2.0, 3.0]]


@pytest.mark.parametrize(("side", "axis"), [("input", 0), ("output", 1)])
def test_chosen_slots_meet_those_of_the_same_number(side, axis):
    """Slots 1 and 3 less slots 0 and 3: of slot 1 nothing, of slot 3 its like; and less a whole side."""

    def chosen(slots, *values):
        rows = torch.tensor([[float(value)] * 4 for value in values])
        return Update(CLIENT, {side: {"m": Sparse(torch.tensor(slots), rows if axis == 0 else rows.T)}})

    left = chosen([1, 3], 10, 20).minus(chosen([0, 3], 5, 6)).sides[side]["m"]
    assert left.slots.tolist() == [1, 3]
    assert left.values.select(1 - axis, 0).tolist() == [10.0, 14.0]
    whole = torch.arange(16.0).reshape(4, 4)
    left = chosen([1, 3], 100, 100).minus(Update(CLIENT, {side: {"m": whole}})).sides[side]["m"]
    assert torch.equal(left.values, 100 - whole.index_select(axis, torch.tensor([1, 3])))


def test_to_the_wire_and_back():
    sides = {"input": {"m": torch.ones(1, 2)}, "output": {"m": Sparse(torch.tensor([1]), torch.ones(3, 1))}}
    sent = Update(CLIENT, sides, {"w": torch.ones(2)}, {"score": 0.5}, "changes")
    found = Update.from_payload(CLIENT, from_bytes(to_bytes(sent.to_payload())), "changes")
    assert found.numbers == {"score": 0.5}
    assert found.content == "changes"
    assert found.weight == 3.0
    assert to_bytes(found.to_payload()) == to_bytes(sent.to_payload())
    assert Update(CLIENT).to_payload() == {}
    for wrong in ({"input": {"m": 1.0}}, {"input": {"m": {"slots": torch.ones(1)}}}, {"more": torch.ones(1)}):
        with pytest.raises(PayloadError):
            Update.from_payload(CLIENT, {"adapter": wrong})
