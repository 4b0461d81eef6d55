"""Sums of products and merged updates against dense sums."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from fedlora.core.adapter import Adapter
from fedlora.core.lowrank import LowRank, delta, singular
from fedlora.core.merged import grow, merged_from_payload, merged_to_payload, numbers
from fedlora.core.payload import cast_floats, from_bytes, to_bytes
from fedlora.core.products import sum_products
from fedlora.methods.hetlora import product_norm


def drawn(seed, d_out, d_in, rank):
    draw = torch.Generator().manual_seed(seed)
    return LowRank(torch.randn(rank, d_in, generator=draw), torch.randn(d_out, rank, generator=draw))


def dense(value):
    return delta(LowRank(value.A.double(), value.B.double())) if isinstance(value, LowRank) else value.double()


SHAPE = (st.integers(2, 12), st.integers(2, 12))
RANKS = st.lists(st.integers(1, 4), min_size=1, max_size=6)


@given(*SHAPE, RANKS)
def test_a_sum_of_products_is_the_dense_sum(d_out, d_in, ranks):
    """Whether it ends as factors or as a matrix."""
    pairs = [drawn(k, d_out, d_in, rank) for k, rank in enumerate(ranks)]
    schema = [(1.0 + k, Adapter({"m": pair.A}, {"m": pair.B})) for k, pair in enumerate(pairs)]
    sums = sum_products({"m": (d_out, d_in)}, iter(schema))
    expected = sum((1.0 + k) * dense(pair) for k, pair in enumerate(pairs))
    torch.testing.assert_close(dense(sums.products["m"]), expected)
    torch.testing.assert_close(dense(sums.mean()["m"]), expected / sums.weight)
    thin = sum(ranks) * (d_in + d_out) < d_in * d_out
    assert isinstance(sums.products["m"], LowRank) == thin


@given(*SHAPE, st.integers(1, 5))
def test_singular_values_of_a_pair_are_those_of_its_matrix(d_out, d_in, rank):
    pair = drawn(1, d_out, d_in, rank)
    U, S, Vh = singular(pair)
    torch.testing.assert_close(U @ torch.diag(S) @ Vh, dense(pair), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(S, torch.linalg.svdvals(dense(pair))[: S.numel()], rtol=1e-7, atol=1e-7)


@given(*SHAPE, RANKS)
def test_a_fold_is_the_sum_of_its_steps(d_out, d_in, ranks):
    merged, expected = {}, torch.zeros(d_out, d_in, dtype=torch.float64)
    for k, rank in enumerate(ranks):
        step = {"m": drawn(k, d_out, d_in, rank)}
        merged, expected = grow(merged, step), expected + dense(step["m"])
        torch.testing.assert_close(dense(merged["m"]), expected, rtol=1e-5, atol=1e-5)
        assert numbers(merged) <= d_in * d_out


@given(*SHAPE, st.integers(1, 5))
def test_a_fold_keeps_its_bits_on_a_narrow_wire(d_out, d_in, rank):
    merged = grow({}, {"m": drawn(3, d_out, d_in, rank)})
    sent = from_bytes(to_bytes(cast_floats(merged_to_payload(merged), torch.bfloat16)))
    back = merged_from_payload(sent)
    assert type(back["m"]) is type(merged["m"])
    assert dense(back["m"]).equal(dense(merged["m"]))


@given(*SHAPE, st.integers(1, 5))
def test_the_norm_of_a_product_needs_no_product(d_out, d_in, rank):
    pair = drawn(7, d_out, d_in, rank)
    torch.testing.assert_close(torch.tensor(product_norm(pair)), dense(pair).norm().float())
