"""The low-rank algebra against slow, dense oracles."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedlora.core.lowrank import LowRank, compress, delta, pad, stack, truncate


def drawn(seed, d_out, d_in, r):
    generator = torch.Generator().manual_seed(seed)
    return LowRank(torch.randn(r, d_in, generator=generator), torch.randn(d_out, r, generator=generator))


SIZES = st.tuples(st.integers(0, 99), st.integers(2, 9), st.integers(2, 9), st.integers(1, 5))


@given(SIZES, st.integers(0, 4))
def test_padding_changes_no_product_and_truncating_undoes_it(sizes, more):
    pair = drawn(*sizes)
    wide = pad(pair, pair.rank + more)
    assert wide.rank == pair.rank + more
    assert torch.equal(delta(wide), delta(pair))
    back = truncate(wide, pair.rank)
    assert torch.equal(back.A, pair.A)
    assert torch.equal(back.B, pair.B)


@given(st.integers(2, 9), st.integers(2, 9), st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_a_stack_is_the_weighted_sum_of_dense_products(d_out, d_in, ranks):
    schema = [(0.3 + k, drawn(k, d_out, d_in, r)) for k, r in enumerate(ranks)]
    dense = sum(weight * (pair.B.double() @ pair.A.double()) for weight, pair in schema)
    stacked = stack(schema)
    assert stacked.rank == sum(ranks)
    torch.testing.assert_close(delta(stacked).double(), dense, rtol=1e-5, atol=1e-5)


@given(st.integers(0, 99), st.integers(2, 12), st.integers(2, 12), st.integers(1, 9), st.integers(1, 6))
def test_compress_is_the_truncated_svd_of_the_dense_product(seed, d_out, d_in, r, rank):
    """Both routes, thin and dense: r below and above the matrix's own size."""
    pair = drawn(seed, d_out, d_in, r)
    U, S, Vh = torch.linalg.svd(pair.B.double() @ pair.A.double())
    k = min(rank, S.numel())
    expected = U[:, :k] @ torch.diag(S[:k]) @ Vh[:k]
    best = compress(pair, rank)
    assert best.rank == rank
    torch.testing.assert_close(delta(best).double(), expected, rtol=1e-4, atol=1e-4)
    kept = min(k, r)
    rows = best.A[:kept].double()
    torch.testing.assert_close(rows @ rows.T, torch.eye(kept, dtype=torch.float64), rtol=1e-5, atol=1e-5)


def test_the_error_of_compress_is_the_tail_of_the_singular_values():
    pair = drawn(1, 8, 6, 4)
    S = torch.linalg.svdvals(delta(pair).double())
    error = delta(pair).double() - delta(compress(pair, 2)).double()
    assert float(error.norm()) == pytest.approx(float(S[2:].square().sum().sqrt()), rel=1e-4)
    assert float(torch.linalg.matrix_norm(error, 2)) == pytest.approx(float(S[2]), rel=1e-4)


def test_a_zero_product_compresses_to_a_zero_product():
    pair = LowRank(torch.randn(2, 7), torch.zeros(5, 2))
    assert torch.equal(delta(compress(pair, 3)), torch.zeros(5, 7))


def test_factors_that_do_not_meet_are_refused():
    with pytest.raises(ValueError, match="no pair"):
        LowRank(torch.zeros(2, 3), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="cannot be padded"):
        pad(drawn(0, 3, 3, 3), 2)
