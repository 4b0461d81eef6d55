"""Adapters, specs and random streams."""

import torch

from fedlora.core.adapter import Adapter, AdapterSpec, Start, effective, fresh_adapter
from fedlora.core.lowrank import LowRank
from fedlora.core.seeds import stream_seed

SPEC = AdapterSpec({"a": (5, 4000), "b": (3, 8)}, rank=4, scale=2.0)


def test_a_fresh_adapter_is_random_in_A_and_zero_in_B():
    adapter = fresh_adapter(SPEC, 4, seed=1)
    assert adapter.ranks() == {"a": 4, "b": 4}
    assert not any(B.any() for B in adapter.output.values())
    variance = float(adapter.input["a"].var()) * 4000
    assert 0.95 < variance < 1.05  # A ~ N(0, 1 / d_in)


def test_more_slots_begin_with_the_same_slots():
    few, many = fresh_adapter(SPEC, 2, seed=1), fresh_adapter(SPEC, 16, seed=1)
    assert torch.equal(many.input["a"][:2], few.input["a"])
    assert not torch.equal(fresh_adapter(SPEC, 2, seed=2).input["a"], few.input["a"])


def test_a_given_start_comes_first_and_changes_nothing():
    given = Adapter(
        {m: torch.randn(2, d_in) for m, (_, d_in) in SPEC.shapes.items()},
        {m: torch.randn(d_out, 2) for m, (d_out, _) in SPEC.shapes.items()},
    )
    spec = AdapterSpec(SPEC.shapes, 4, 2.0, start=given)
    begun = fresh_adapter(spec, 4, seed=1)
    fresh = fresh_adapter(SPEC, 4, seed=1)
    assert torch.equal(begun.input["a"], torch.cat([given.input["a"], fresh.input["a"][2:]]))
    for module, value in effective(Start(given), SPEC).items():
        torch.testing.assert_close(effective(Start(begun), SPEC)[module], value)


def test_effective_adds_folds_of_both_forms():
    adapter = Adapter({"m": torch.ones(1, 2)}, {"m": torch.ones(3, 1)})
    spec = AdapterSpec({"m": (3, 2)}, 1, 0.5)
    dense = effective(Start(adapter, {"m": torch.full((3, 2), 4.0)}), spec)["m"]
    pair = effective(Start(adapter, {"m": LowRank(2 * torch.ones(1, 2), 2 * torch.ones(3, 1))}), spec)["m"]
    assert torch.equal(dense, torch.full((3, 2), 2.5, dtype=torch.float64))
    assert torch.equal(dense, pair)


def test_streams_differ_by_every_part_of_their_name():
    names = [(0, "a"), (1, "a"), (0, "b"), (0, "a", 1), (0, "a", "1"), (0, "a", 1, 2), (0, "a", 12)]
    assert len({stream_seed(*own) for own in names}) == len(names)
    assert stream_seed(0, "a", 1, "c0") == stream_seed(0, "a", 1, "c0")
