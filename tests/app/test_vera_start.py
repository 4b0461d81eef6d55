"""A run goes on from a VeRA adapter, with its frozen pair, whatever the seed."""

VERA = {"adapter": {"kind": "vera", "rank": 2}}


def test_a_run_goes_on_from_a_vera_adapter(config, fedlora, tmp_path):
    assert fedlora("run", config(**VERA), "--out", tmp_path / "first")[0] == 0
    start = tmp_path / "first" / "adapter"
    path = config(adapter={**VERA["adapter"], "start": str(start)}, run={"seed": 5, "rounds": 1})
    code, _, err = fedlora("run", path, "--out", tmp_path / "second")
    assert (code, err) == (0, "")

    from safetensors.torch import load_file

    before, after = (load_file(tmp_path / run / "adapter" / "adapter_model.safetensors") for run in ("first", "second"))
    for name in ("base_model.vera_A", "base_model.vera_B"):
        assert before[name].equal(after[name])
    b = next(name for name in before if name.endswith("vera_lambda_b"))
    assert 0 < (after[b] - before[b]).norm() < 0.9 * after[b].norm()  # it moved on, and not from zero


def test_another_rank_than_the_start_is_refused(config, fedlora, tmp_path):
    assert fedlora("run", config(**VERA, run={"rounds": 1}), "--out", tmp_path / "first")[0] == 0
    path = config(adapter={"kind": "vera", "rank": 3, "start": str(tmp_path / "first" / "adapter")})
    code, _, err = fedlora("run", path, "--out", tmp_path / "second")
    assert code == 2
    assert "adapter.start has rank 2, but adapter.rank is 3: set it to 2" in err
