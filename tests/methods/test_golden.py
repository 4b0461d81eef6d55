"""Each method on 2 x 2 factors, worked by hand.

Two clients with weights 1/4 and 3/4 (1 and 3 examples), one module, d_in = d_out = 2, scale 1:

    A_1 = [1 0]   B_1 = [2 0]      A_2 = [0 4]   B_2 = [0 4]
          [0 1]         [0 2]            [4 0]         [4 0]

Products: B_1 A_1 = [2 0; 0 2], B_2 A_2 = [0 4; 4 0] [0 4; 4 0] = [16 0; 0 16].
"""

import pytest
import torch

from fedlora.core.adapter import Adapter
from fedlora.core.lowrank import delta
from fedlora.core.rounds import Client, Upload
from fedlora.methods.base import State
from fedlora.methods.fedit import FedIT
from fedlora.methods.fedsa import FedSA
from fedlora.methods.ffa import FFA
from fedlora.methods.flexlora import FlexLoRA
from fedlora.methods.local import Local
from fedlora.methods.lora_a2 import LoRAA2
from fedlora.methods.replicate import Replicate
from fedlora.methods.rolora import RoLoRA
from fedlora.methods.zeropad import ZeroPad

A1, B1 = torch.tensor([[1.0, 0], [0, 1]]), torch.tensor([[2.0, 0], [0, 2]])
A2, B2 = torch.tensor([[0, 4.0], [4, 0]]), torch.tensor([[0, 4.0], [4, 0]])
OLD = Adapter({"m": torch.full((2, 2), 8.0)}, {"m": torch.full((2, 2), 8.0)})
CHANGED = {"changed": {"input": 0, "output": 0}}


def two(first, second):
    return iter([Upload(Client("c0", 1, 2), first), Upload(Client("c1", 3, 2), second)])


def both(A, B):
    return {"input": {"m": A}, "output": {"m": B}}


def expect(adapter, A, B):
    torch.testing.assert_close(adapter.input["m"], torch.tensor(A))
    torch.testing.assert_close(adapter.output["m"], torch.tensor(B))


def test_fedit():
    """A = 1/4 A_1 + 3/4 A_2 = [1/4 3; 3 1/4]; B = [1/2 3; 3 1/2].

    Their product [9.125 2.25; 2.25 9.125]-like differs from the mean product 1/4 2 I + 3/4 16 I = 12.5 I.
    """
    new = FedIT().aggregate(State(OLD), two(both(A1, B1), both(A2, B2)), 1).adapter
    expect(new, [[0.25, 3.0], [3.0, 0.25]], [[0.5, 3.0], [3.0, 0.5]])
    torch.testing.assert_close(delta(new.pair("m")), torch.tensor([[9.125, 2.25], [2.25, 9.125]]))


def test_zero_padding():
    """Client 2 has rank 1: its row [0 4] and column [0; 4]. Slot 0 is the mean, slot 1 client 1's by 1/4."""
    new = ZeroPad().aggregate(State(OLD), two(both(A1, B1), both(A2[:1], B2[:, :1])), 1).adapter
    expect(new, [[0.25, 3.0], [0.0, 0.25]], [[0.5, 0.0], [3.0, 0.5]])


def test_zero_padding_keeps_a_slot_without_owners():
    new = ZeroPad().aggregate(State(OLD), two(both(A1[:1], B1[:, :1]), both(A2[:1], B2[:, :1])), 1).adapter
    expect(new, [[0.25, 3.0], [8.0, 8.0]], [[0.5, 8.0], [3.0, 8.0]])


def test_replication_padding():
    """As zero padding, but slot 1 is client 1's own, undiluted: [0 1] and [0; 2]."""
    new = Replicate().aggregate(State(OLD), two(both(A1, B1), both(A2[:1], B2[:, :1])), 1).adapter
    expect(new, [[0.25, 3.0], [0.0, 1.0]], [[0.5, 0.0], [3.0, 2.0]])


def test_fedsa():
    """Only A moves, to its mean; B of the server's state is nobody's and stays."""
    new = FedSA().aggregate(State(OLD), two({"input": {"m": A1}}, {"input": {"m": A2}}), 1).adapter
    expect(new, [[0.25, 3.0], [3.0, 0.25]], [[8.0, 8.0], [8.0, 8.0]])


@pytest.mark.parametrize("method", [FFA(), RoLoRA()])
def test_b_rounds_add_the_mean_change(method):
    """B = 8 + 1/4 B_1 + 3/4 B_2 = [8.5 11; 11 8.5]; A stays."""
    new = method.aggregate(State(OLD, CHANGED), two({"output": {"m": B1}}, {"output": {"m": B2}}), 1)
    expect(new.adapter, [[8.0, 8.0], [8.0, 8.0]], [[8.5, 11.0], [11.0, 8.5]])
    assert new.extra["changed"] == {"input": 0, "output": 1}


def test_rolora_moves_a_in_even_rounds():
    new = RoLoRA().aggregate(State(OLD, CHANGED), two({"input": {"m": A1}}, {"input": {"m": A2}}), 2)
    expect(new.adapter, [[8.25, 11.0], [11.0, 8.25]], [[8.0, 8.0], [8.0, 8.0]])


def test_ffa_with_missing_slots():
    """Client 2 sends slot 0 only. All: slot 1 moves by 1/4 [0; 2]; owners: by the whole of it."""
    sent = ({"output": {"m": B1}}, {"output": {"m": B2[:, :1]}})
    new = FFA().aggregate(State(OLD, CHANGED), two(*sent), 1).adapter
    expect(new, [[8.0, 8.0], [8.0, 8.0]], [[8.5, 8.0], [11.0, 8.5]])
    new = FFA(denominator="owners").aggregate(State(OLD, CHANGED), two(*sent), 1).adapter
    expect(new, [[8.0, 8.0], [8.0, 8.0]], [[8.5, 8.0], [11.0, 10.0]])


def test_lora_a2():
    """B round: client 1 sends slot 1 ([0; 2]), client 2 slot 0 ([0; 4]): 8 + 1/4 [0; 2], 8 + 3/4 [0; 4]."""
    first = {"output": {"m": {"slots": torch.tensor([1]), "values": B1[:, 1:]}}}
    second = {"output": {"m": {"slots": torch.tensor([0]), "values": B2[:, :1]}}}
    new = LoRAA2(pool_rank=2).aggregate(State(OLD, CHANGED), two(first, second), 1).adapter
    expect(new, [[8.0, 8.0], [8.0, 8.0]], [[8.0, 8.0], [11.0, 8.5]])
    new = LoRAA2(pool_rank=2, denominator="owners").aggregate(State(OLD, CHANGED), two(first, second), 1).adapter
    expect(new, [[8.0, 8.0], [8.0, 8.0]], [[8.0, 8.0], [12.0, 10.0]])


def test_flexlora():
    """D = 1/4 2 I + 3/4 16 I = 12.5 I, of rank 2: kept whole, A orthonormal."""
    new = FlexLoRA().aggregate(State(OLD), two(both(A1, B1), both(A2, B2)), 1).adapter
    torch.testing.assert_close(delta(new.pair("m")), 12.5 * torch.eye(2))
    torch.testing.assert_close(new.input["m"] @ new.input["m"].T, torch.eye(2))


def test_local():
    state = State(OLD)
    assert Local().aggregate(state, two({}, {}), 1) is state
