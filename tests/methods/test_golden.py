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
from fedlora.core.rounds import Client
from fedlora.core.update import Update
from fedlora.methods.base import State
from fedlora.methods.fair import FAIR
from fedlora.methods.fedex import FedEx
from fedlora.methods.fedit import FedIT
from fedlora.methods.fedsa import FedSA
from fedlora.methods.fedsvd import FedSVD
from fedlora.methods.ffa import FFA
from fedlora.methods.flexlora import FlexLoRA
from fedlora.methods.flora import FLoRA
from fedlora.methods.florist import FLoRIST
from fedlora.methods.full import Full
from fedlora.methods.hetlora import HetLoRA
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
    return iter([sent(Client("c0", 1, 2), first), sent(Client("c1", 3, 2), second)])


def sent(client, sides):
    return Update.from_payload(client, {"adapter": sides})


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
    uploads = ({"output": {"m": B1}}, {"output": {"m": B2[:, :1]}})
    new = FFA().aggregate(State(OLD, CHANGED), two(*uploads), 1).adapter
    expect(new, [[8.0, 8.0], [8.0, 8.0]], [[8.5, 8.0], [11.0, 8.5]])
    new = FFA(denominator="owners").aggregate(State(OLD, CHANGED), two(*uploads), 1).adapter
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
    assert Local().aggregate(state, two({}, {}), 1).adapter is state.adapter


EYE = torch.eye(2)


def nothing_folded():
    return {"merged": {}, "steps": {}, "since": 1, "seed": 0}


def test_flora():
    """The stack multiplies out to 12.5 I. Four slots hold no fewer numbers than the matrix, so it is dense."""
    state = State(OLD.with_side("output", {"m": torch.zeros(2, 2)}), nothing_folded())
    result = FLoRA().result(FLoRA().aggregate(state, two(both(A1, B1), both(A2, B2)), 1))
    torch.testing.assert_close(result.merged["m"], 12.5 * EYE)
    assert not result.adapter.output["m"].any()


def test_fedex():
    """The means of FedIT, and the residual 1/4 (B_1 - B)(A_1 - A_2).

    1/4 [3/2 -3; -3 3/2] [1 -4; -4 1] = 1/4 [13.5 -9; -9 13.5] = 12.5 I - [9.125 2.25; 2.25 9.125].
    """
    state = FedEx().aggregate(State(OLD, nothing_folded()), two(both(A1, B1), both(A2, B2)), 1)
    expect(state.adapter, [[0.25, 3.0], [3.0, 0.25]], [[0.5, 3.0], [3.0, 0.5]])
    residual = torch.tensor([[3.375, -2.25], [-2.25, 3.375]])
    torch.testing.assert_close(FedEx().result(state).merged["m"], residual)


def test_fedex_with_thin_factors():
    """On a large matrix the residual stays a pair of rank (K - 1) r, with the same product."""
    wide = torch.zeros(2, 30)
    uploads = []
    for A, B in ((A1, B1), (A2, B2)):
        A_wide, B_wide = wide.clone(), wide.T.clone()
        A_wide[:, :2], B_wide[:2] = A, B
        uploads.append(both(A_wide, B_wide))
    old = Adapter({"m": wide}, {"m": wide.T})
    merged = FedEx().result(FedEx().aggregate(State(old, nothing_folded()), two(*uploads), 1)).merged["m"]
    assert merged.rank == 2
    torch.testing.assert_close(delta(merged)[:2, :2], torch.tensor([[3.375, -2.25], [-2.25, 3.375]]))


def test_florist():
    """Client 1 sends slot 0 alone: 1/4 diag(2, 0) + 3/4 16 I = diag(12.5, 12).

    The first singular value holds 12.5^2 / (12.5^2 + 12^2) = 0.52 of the energy: enough for 0.5, not for 0.6.
    """
    uploads = (both(A1[:1], B1[:, :1]), both(A2, B2))
    for energy, product in ((0.5, [12.5, 0.0]), (0.6, [12.5, 12.0])):
        new = FLoRIST(energy=energy).aggregate(State(OLD), two(*uploads), 1).adapter
        assert new.ranks() == {"m": 1 if energy == 0.5 else 2}
        torch.testing.assert_close(delta(new.pair("m")), torch.diag(torch.tensor(product)))


def test_fedsvd():
    """A = I: B A = B = [1/2 3; 3 1/2] with singular values 3.5 and 2.5, which become the lengths of B's columns."""
    state = State(OLD.with_side("input", {"m": EYE}))
    new = FedSVD().aggregate(state, two({"output": {"m": B1}}, {"output": {"m": B2}}), 1).adapter
    torch.testing.assert_close(delta(new.pair("m")), torch.tensor([[0.5, 3.0], [3.0, 0.5]]))
    torch.testing.assert_close(new.input["m"] @ new.input["m"].T, EYE)
    torch.testing.assert_close(new.output["m"].norm(dim=0), torch.tensor([3.5, 2.5]))


def test_fedsvd_where_b_is_deficient():
    """B = 0: the rows of A are orthonormal all the same."""
    zero = {"output": {"m": torch.zeros(3, 2)}}
    old = Adapter({"m": torch.randn(2, 5)}, {"m": torch.zeros(3, 2)})
    new = FedSVD().aggregate(State(old), two(zero, zero), 1).adapter
    torch.testing.assert_close(new.input["m"] @ new.input["m"].T, EYE)


def test_fair():
    """All matrices are symmetric with eigenvectors (1, 1) and (1, -1), so the rule works on eigenvalues.

    A: 3.25, -2.75. B: 3.5, -2.5. P: 12.5, 12.5. With lambda = 0.4375, A A^T + lambda I: 11, 8. So
    dB = (12.5 * 3.25 - 3.5 * 10.5625) / 11 = 3.65625 / 11 and (12.5 * -2.75 + 2.5 * 7.5625) / 8 = -15.46875 / 8.
    """
    new = FAIR(ridge=0.4375).aggregate(State(OLD), two(both(A1, B1), both(A2, B2)), 1).adapter
    one, other = 3.5 + 3.65625 / 11, -2.5 - 15.46875 / 8
    even, odd = (one + other) / 2, (one - other) / 2
    expect(new, [[0.25, 3.0], [3.0, 0.25]], [[even, odd], [odd, even]])


def test_hetlora():
    """||B_1 A_1||_F = 2 sqrt(2), ||B_2 A_2||_F = 16 sqrt(2): weights 1/9 and 8/9, whatever the examples."""
    state = State(OLD, {"ranks": {}})
    new = HetLoRA().aggregate(state, two(both(A1, B1), both(A2, B2)), 1)
    expect(new.adapter, [[1 / 9, 32 / 9], [32 / 9, 1 / 9]], [[2 / 9, 32 / 9], [32 / 9, 2 / 9]])
    assert new.extra["ranks"] == {"c0": 2, "c1": 2}


def test_hetlora_where_nobody_learned_anything():
    """All products are zero: weights by examples."""
    zero = torch.zeros(2, 2)
    new = HetLoRA().aggregate(State(OLD, {"ranks": {}}), two(both(A1, zero), both(A2, zero)), 1)
    expect(new.adapter, [[0.25, 3.0], [3.0, 0.25]], [[0.0, 0.0], [0.0, 0.0]])


def test_full():
    """D = 1/4 B_1 + 3/4 B_2."""
    old = Adapter({}, {"m": OLD.output["m"]}, kind="dense")
    new = Full().aggregate(State(old), two({"output": {"m": B1}}, {"output": {"m": B2}}), 1).adapter
    torch.testing.assert_close(new.output["m"], torch.tensor([[0.5, 3.0], [3.0, 0.5]]))


def test_fedsa_with_a_shared_output():
    new = FedSA(shared="output").aggregate(State(OLD), two({"output": {"m": B1}}, {"output": {"m": B2}}), 1).adapter
    expect(new, [[8.0, 8.0], [8.0, 8.0]], [[0.5, 3.0], [3.0, 0.5]])


def test_vera_by_fedit():
    """d = 1/4 [1 0] + 3/4 [0 4] = [1/4 3], b likewise."""
    old = Adapter({"m": torch.zeros(2)}, {"m": torch.zeros(2)}, kind="vera")
    new = FedIT().aggregate(State(old), two(both(A1[0], B1[0]), both(A2[0], B2[0])), 1).adapter
    expect(new, [0.25, 3.0], [0.5, 3.0])


def test_a_median_of_three_goes_by_heads():
    """Entry by entry of I, 4 J and 0: 0 everywhere, however many examples anybody has."""
    third = sent(Client("c2", 99, 2), both(torch.zeros(2, 2), torch.zeros(2, 2)))
    new = FedIT(centre="median").aggregate(State(OLD), iter([*two(both(A1, B1), both(A2, B2)), third]), 1).adapter
    expect(new, [[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]])
    new = FedIT(centre="median").aggregate(State(OLD), two(both(A1, B1), both(A2, B2)), 1).adapter
    expect(new, [[0.5, 2.0], [2.0, 0.5]], [[1.0, 2.0], [2.0, 1.0]])
