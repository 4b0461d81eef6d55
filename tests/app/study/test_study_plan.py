"""What a study consists of: cells as a pure function of its file, and what is refused before anything runs."""

import pytest

from fedlora.app.study.cells import Unit, cell_key, of_shard, reported_cells, tuning_cells, units
from fedlora.app.study.choice import Trial, choose
from fedlora.app.study.plan import Rate
from fedlora.app.study.reading import make_study, read_study
from fedlora.errors import ConfigError

TREE = {
    "study": {"name": "golden", "reference": "fedit", "draws": 2, "first_draw": 3, "extra_seeds": [9], "repeated": 1},
    "tuning": {"draws": [90, 91], "lr": [1e-3, 1e-2]},
    "axes": {"split.alpha": [0.1, 0.5]},
    "run": {"rounds": 6},
    "split": {"validation": 0.1},
    "variant": [
        {"name": "fedit", "method": "fedit"},
        {"name": "ffa", "method": "ffa", "adapter.rank": 4},
    ],
}  # fmt: skip


def study_of(folder, **sections):
    return make_study({**TREE, **sections}, folder)


def told(cells):
    return [(c.setting, c.variant, c.draw, c.seed, c.rate.lr) for c in cells]


def test_the_cells_are_these(tmp_path):
    study = study_of(tmp_path)
    tuning = tuning_cells(study)
    assert told(tuning) == [
        (f"split.alpha={alpha}", variant, draw, 0, lr)
        for draw in (90, 91)
        for alpha in (0.1, 0.5)
        for variant in ("fedit", "ffa")
        for lr in (1e-3, 1e-2)
    ]
    assert {cell.config.run.rounds for cell in tuning} == {3}
    assert {cell.config.evaluate.part for cell in tuning} == {"validation"}
    chosen = {unit: Rate(1e-2 if unit.variant == "ffa" else 1e-3) for unit in units(study)}
    reported = reported_cells(study, chosen)
    lr = {"fedit": 1e-3, "ffa": 1e-2}
    assert told(reported) == [
        (f"split.alpha={alpha}", variant, draw, seed, lr[variant])
        for draw, seed in ((3, 0), (4, 0), (3, 9))
        for alpha in (0.1, 0.5)
        for variant in ("fedit", "ffa")
    ]
    first = reported[1].config
    assert (first.split.seed, first.run.seed, first.adapter.rank, first.evaluate.part) == (3, 0, 4, "test")


def test_names_of_cells_are_these_and_all_different(tmp_path):
    """A change here makes every study run all its cells again: it is a change of the format of cells."""
    study = study_of(tmp_path)
    cells = tuning_cells(study)
    assert cells[0].key == "585b919221c786c51695d3b2"
    assert cells[-1].key == "0d93f138451f589c9aabb034"
    assert len({cell.key for cell in cells}) == len(cells)


def test_a_name_goes_by_content_and_not_by_place(tmp_path):
    def key(base, contents):
        return cell_key(tuning_cells(study_of(tmp_path, model={"base": base}))[0].config, contents)

    same = {"/one/base": "weights", "/other/base": "weights"}.get
    assert key("/one/base", same) == key("/other/base", same)
    assert key("/one/base", str) != key("/other/base", str)


@pytest.mark.parametrize("shards", [1, 2, 3, 5])
def test_shards_are_disjoint_and_together_all(tmp_path, shards):
    whole = units(study_of(tmp_path))
    parts = [of_shard(whole, number, shards) for number in range(1, shards + 1)]
    assert sorted(unit for part in parts for unit in part) == sorted(whole)


def test_axes_are_keys_or_named_points_and_a_rate_may_be_shared(tmp_path):
    axes = {
        "setting": {"mild": {"split.alpha": 1.0}, "mixed": {"clients": {"ranks": [1, 5]}}},
        "adapter": {"rank": [2, 4]},
    }
    tuning = {"draws": [90], "lr": [1e-3], "shared_over": ["adapter.rank"]}
    study = study_of(tmp_path, axes=axes, tuning=tuning, variant=[{"name": "fedit", "method": "fedit"}])
    assert [setting.name for setting in study.settings] == [
        "mild, adapter.rank=2", "mild, adapter.rank=4", "mixed, adapter.rank=2", "mixed, adapter.rank=4",
    ]  # fmt: skip
    assert units(study) == [Unit("mild, adapter.rank=2", "fedit"), Unit("mixed, adapter.rank=2", "fedit")]
    cells = reported_cells(study, {unit: Rate(1e-3) for unit in units(study)})
    ranks = {cell.setting: cell.config.adapter.rank for cell in cells}
    assert ranks["mild, adapter.rank=4"] == 4
    assert ranks["mixed, adapter.rank=4"] == 3  # one rank for all: the mean of the mix
    assert all(cell.config.clients.ranks is None for cell in cells)


def test_a_given_rate_is_not_chosen(tmp_path):
    variants = [{"name": "fedit at 5e-4", "method": "fedit", "rate": 5e-4}, *TREE["variant"]]
    study = study_of(tmp_path, variant=variants)
    assert {cell.variant for cell in tuning_cells(study)} == {"fedit", "ffa"}
    cells = reported_cells(study, {unit: Rate(1e-3) for unit in units(study)})
    assert {cell.config.train.lr for cell in cells if cell.variant == "fedit at 5e-4"} == {5e-4}
    assert {cell.config.train.lr for cell in cells if cell.variant == "fedit"} == {1e-3}
    with pytest.raises(ConfigError, match="its rate is given"):
        study_of(tmp_path, variant=[{**variants[0], "lr": [1e-3]}, *TREE["variant"]])


def test_a_variant_may_be_run_at_some_points_only(tmp_path):
    """Its rate is still chosen where the study chooses it."""
    variants = [*TREE["variant"], {"name": "zeropad", "method": "zeropad", "at": ["split.alpha=0.5"]}]
    tuning = {**TREE["tuning"], "shared_over": ["split.alpha"]}
    study = study_of(tmp_path, variant=variants, tuning=tuning)
    cells = reported_cells(study, {unit: Rate(1e-3) for unit in units(study)})
    assert {cell.setting for cell in cells if cell.variant == "zeropad"} == {"split.alpha=0.5"}
    assert len(cells) == 3 * 5
    tuned = {(cell.setting, cell.variant) for cell in tuning_cells(study)}
    assert tuned == {("split.alpha=0.1", name) for name in ("fedit", "ffa", "zeropad")}
    with pytest.raises(ConfigError, match="'mixed', which is no point of an axis"):
        study_of(tmp_path, variant=[*TREE["variant"], {"name": "x", "method": "fedit", "at": ["mixed"]}])


def test_sizes_and_overrides_lie_on_top(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        '[study]\nname = "mine"\nreference = "a"\ndraws = 4\n[run]\nrounds = 9\n[data]\nsource = "files"\npath = "x"\n'
        '[size.small.study]\ndraws = 2\n[size.paper.run]\nrounds = 50\n[[variant]]\nname = "a"\nmethod = "fedit"\n'
    )
    small, paper = read_study(path), read_study(path, "paper", ["run.rounds=7", "study.seed=5"], tmp_path / "data")
    assert (small.size, len(small.about.reported_draws), small.base["run"]["rounds"]) == ("small", 2, 9)
    assert (paper.size, len(paper.about.reported_draws), paper.base["run"]["rounds"]) == ("paper", 4, 7)
    assert paper.about.seed == 5
    assert small.base["data"]["path"] == str(tmp_path / "x")
    assert paper.base["data"]["path"] == str(tmp_path / "data" / "x")
    with pytest.raises(ConfigError, match="There is no size 'large'"):
        read_study(path, "large")


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"tuning": {"draws": [4, 90], "lr": [1e-3]}}, "draw 4 is reported, too"),
        ({"study": {**TREE["study"], "reference": "fedlt"}}, "which is no variant: did you mean 'fedit'"),
        ({"split": {}}, "split.validation is 0.0"),
        ({"variant": [*TREE["variant"], {"name": "x", "method": "fedit", "lr": [1e-3]}]}, "all try equally many"),
        ({"variant": [*TREE["variant"], {"name": "ffa", "method": "ffa"}]}, "Two variants are called 'ffa'"),
        ({"variant": [*TREE["variant"], {"name": "x", "method": "fedlt"}]}, "The variant 'x' at split.alpha=0.1 cannot"),
        ({"variant": [*TREE["variant"], {"name": "x", "method": "ffa", "train.lr": 1.0}]}, "which the study chooses"),
        ({"variant": [*TREE["variant"], {"name": "x", "methd": "ffa"}]}, "has an unknown key 'methd'"),
        ({"run": {"seed": 3}}, "sets run.seed: leave it out"),
        ({"axes": {"split.seed": [1, 2]}}, "sets split.seed: leave it out"),
        ({"axes": {"alpha": [1, 2]}}, "is no key of a config"),
        ({"axes": {"split.alpha": 1}}, "expected a list of values"),
        ({"axes": {"split.alpha": [-1.0]}}, "split.alpha is -1.0"),
        ({"model": {"dtype": "auto"}}, "all cells of a study need one type"),
        ({"evaluate": {"part": "validation"}}, "a study reports the test part"),
        ({"study": {**TREE["study"], "draws": [3, 3]}}, "names a draw twice"),
        ({"study": {**TREE["study"], "extra_seeds": []}}, "give both"),
        ({"study": {**TREE["study"], "extra_seeds": [0]}}, "is study.seed"),
        ({"study": {**TREE["study"], "repeated": 5}}, "there are only 2 draws"),
        ({"study": {**TREE["study"], "drws": 2}}, "did you mean 'draws'"),
        ({"tunning": {}}, "unknown section"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_in_a_sentence(tmp_path, sections, sentence):
    with pytest.raises(ConfigError) as refused:
        study_of(tmp_path, **sections)
    assert sentence in str(refused.value)


def test_an_override_without_effect_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"would have no effect, since the axis split\.alpha sets it"):
        make_study(TREE, tmp_path, above={"split": {"alpha": 3.0}})


def trials(study, goodness):
    return [Trial(cell, goodness(cell)) for cell in tuning_cells(study)]


def test_the_best_mean_over_the_tuning_draws_is_chosen(tmp_path):
    study = study_of(tmp_path)
    # 1e-3 wins on one draw by much, 1e-2 on the other by little
    better = {(1e-3, 90): 0.9, (1e-3, 91): 0.3, (1e-2, 90): 0.5, (1e-2, 91): 0.4}
    found = choose(study, trials(study, lambda cell: (better[cell.rate.lr, cell.draw], 0.0)))
    assert {choice.rate.lr for choice in found} == {1e-3}
    assert [choice.unit for choice in found] == units(study)
    assert found[0].tried == {Rate(1e-3): (0.9, 0.3), Rate(1e-2): (0.5, 0.4)}


def test_a_rate_that_diverged_is_out_and_a_tie_goes_to_the_smaller(tmp_path):
    study = study_of(tmp_path)
    out = choose(study, trials(study, lambda cell: None if cell.rate.lr == 1e-3 and cell.draw == 90 else (0.5,)))
    assert {choice.rate.lr for choice in out} == {1e-2}
    assert {choice.rate.lr for choice in choose(study, trials(study, lambda cell: (0.5,)))} == {1e-3}
    assert {choice.rate for choice in choose(study, trials(study, lambda cell: None))} == {None}


def test_nothing_is_chosen_before_all_trials_have_ended(tmp_path):
    study = study_of(tmp_path)
    whole = trials(study, lambda cell: (0.5,))
    missing = choose(study, whole[1:])
    assert Unit("split.alpha=0.1", "fedit") not in {choice.unit for choice in missing}
    assert len(missing) == 3
