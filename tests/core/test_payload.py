"""Payloads keep every bit and refuse what cannot travel."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedlora.core.payload import cast_floats, from_bytes, is_finite, tensors_at, to_bytes
from fedlora.errors import PayloadError

TYPES = [torch.float32, torch.float64, torch.bfloat16, torch.uint8, torch.int16, torch.int32, torch.bool]
TENSORS = st.builds(
    lambda shape, dtype, seed: torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)).to(dtype),
    st.lists(st.integers(0, 4), max_size=3).map(tuple),
    st.sampled_from(TYPES),
    st.integers(0, 9),
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
KEYS = st.text(max_size=9).filter("$tensor".__ne__)
TREES = st.recursive(
    TENSORS | SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=9,
)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@given(st.dictionaries(KEYS, TREES, max_size=4))
def test_there_and_back(payload):
    data = to_bytes(payload)
    assert same(payload, from_bytes(data))
    assert to_bytes(from_bytes(data)) == data


def test_nothing_costs_nothing():
    assert to_bytes({}) == b""
    assert from_bytes(b"") == {}


def test_bfloat16_keeps_its_bits():
    tensor = torch.randn(50).to(torch.bfloat16)
    back = from_bytes(to_bytes({"t": tensor}))["t"]
    assert torch.equal(back.view(torch.int16), tensor.view(torch.int16))


def test_views_of_one_tensor_travel_apart():
    tensor = torch.arange(6.0)
    back = from_bytes(to_bytes({"a": tensor[:3], "b": tensor, "c": tensor}))
    assert torch.equal(back["a"], tensor[:3])
    assert torch.equal(back["c"], tensor)


@pytest.mark.parametrize("value", [object(), {1: 2}, {"$tensor": "0"}, float("nan"), float("inf"), {1, 2}])
def test_what_cannot_travel_is_refused(value):
    with pytest.raises(PayloadError):
        to_bytes({"key": value})


@pytest.mark.parametrize("data", [b"x", b"\x00" * 40, to_bytes({"a": torch.zeros(3)})[:-1], b'{"a": 1}'])
def test_bytes_that_are_no_payload_are_refused(data):
    with pytest.raises(PayloadError):
        from_bytes(data)


def test_only_floating_point_is_cast():
    payload = {"f": torch.ones(2), "i": torch.ones(2, dtype=torch.uint8), "deep": {"f": torch.ones(1)}}
    narrow = cast_floats(payload, torch.bfloat16)
    assert (narrow["f"].dtype, narrow["i"].dtype) == (torch.bfloat16, torch.uint8)
    assert narrow["deep"]["f"].dtype == torch.bfloat16


def test_finiteness_looks_everywhere():
    assert is_finite({"a": torch.ones(2), "b": [{"c": torch.zeros(1)}]})
    assert not is_finite({"a": torch.ones(2), "b": [{"c": torch.tensor([float("nan")])}]})


def test_a_branch_of_the_wrong_kind_is_named():
    with pytest.raises(PayloadError, match="'output' should hold"):
        tensors_at({"output": {"m": 3}}, "output")
