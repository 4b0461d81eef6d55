"""What may race, which rungs fit the time, and who goes on: without a run."""

import itertools

import pytest

from fedlora.app.config.schema import make_config
from fedlora.app.study.plan import Rate
from fedlora.app.tune.asked import ask, bytes_of
from fedlora.app.tune.candidates import Candidate, Kind, chosen_config, entrants, kinds, trial, variations
from fedlora.app.tune.plan import PLANS, Pace, Rung, last_draws, later, opening, rest
from fedlora.app.tune.selection import judged, next_field
from fedlora.errors import ConfigError, UserError

CONFIG = {"split": {"clients": 3, "validation": 0.2}, "adapter": {"rank": 4}, "method": {"name": "fedit"}}


def question(settings=None, **sections):
    tree = {name: {**CONFIG.get(name, {}), **sections.get(name, {})} for name in {*CONFIG, *sections}}
    return ask(make_config(tree), {"minutes": 5, **(settings or {})})


def at(method, rank, lr, ratio=None):
    return Candidate(Kind(method, rank), Rate(lr, ratio))


# ------------------------------------------------------------------------------------------------- who may race


def test_by_default_methods_with_a_global_model_race_and_bounds_do_not():
    asked = question()
    assert asked.judge == "global"
    assert asked.methods[0] == "fedit"
    assert {"lora-a2", "ffa", "flora", "hetlora"} <= set(asked.methods)
    assert set(asked.left_out) == {"fedsa", "local", "central", "base", "full", "replicate", "zeropad"}
    assert "no global model" in asked.left_out["fedsa"]


def test_a_method_with_private_parts_has_all_judged_by_personal_models():
    for asked in (
        question(method={"name": "fedsa"}),
        question({"judge": "personal"}),
        question(adapter={"head": "private"}),
    ):
        assert asked.judge == "personal"
        assert {"fedsa", "local", "fedit"} <= set(asked.methods)


def test_clients_of_several_ranks_have_methods_that_mix_them():
    asked = question(clients={"ranks": [2, 4, 8]})
    assert asked.ranks == ()
    assert {"replicate", "zeropad"} <= set(asked.methods)
    assert "one rank for all" in asked.left_out["fedex"]
    assert "fedit" in asked.methods  # the config's own
    assert kinds(asked)[0] == Kind("fedit", None)


def test_stages_that_refuse_a_method_keep_it_out():
    stages = [{"name": "fedavgm"}]
    asked = ask(make_config(CONFIG | {"stage": stages}), {"minutes": 5})
    assert asked.left_out.keys() - question().left_out.keys()
    assert not set(asked.methods) & {"flexlora", "flora"}


@pytest.mark.parametrize(
    ("settings", "sections", "sentence"),
    [
        ({}, {"split": {"validation": 0.0}}, "set it to, say, 0.1"),
        ({"minutes": 0}, {}, "tune.minutes is 0"),
        ({"methods": ["fedti"]}, {}, "did you mean 'fedit'"),
        ({"methods": ["central"]}, {}, "central cannot race: it is a bound"),
        ({"methods": ["fedsa"]}, {}, "it has no global model"),
        ({"judge": "global"}, {"adapter": {"head": "private"}}, "adapter.head is 'private'"),
        ({"judge": "mean"}, {}, "tune.judge is 'mean'"),
        ({"ranks": [0]}, {}, "tune.ranks"),
        ({"ranks": [4]}, {"clients": {"ranks": [2, 4]}}, "ranks of their own"),
        ({"lr": []}, {}, "tune.lr"),
        ({"budget": "20 parsecs"}, {}, "such as 20MB"),
        ({"draws": 1}, {}, "tune.draws is 1"),
    ],
)
def test_a_question_that_makes_no_sense_gets_a_sentence(settings, sections, sentence):
    with pytest.raises(UserError, match=sentence):
        question(settings, **sections)


def test_bytes_are_read_as_people_write_them():
    assert [bytes_of(text) for text in ("20MB", "1.5 gb", "3k", 700, "12B")] == [
        20_000_000,
        1_500_000_000,
        3000,
        700,
        12,
    ]
    for wrong in ("", "MB", "-3MB", "0", "3 MiB"):
        with pytest.raises(ConfigError):
            bytes_of(wrong)


# ------------------------------------------------------------------------------------------------- candidates


def test_the_configs_rank_comes_first_and_its_rate_takes_part():
    asked = question(train={"lr": 3e-3})
    assert asked.ranks == (4, 2, 8)
    assert asked.rates == (5e-4, 1e-3, 3e-3, 5e-3, 1e-2)
    assert question(train={"lr": 0.07}).rates == (5e-4, 1e-3, 2e-3, 5e-3, 0.07)


def test_entrants_begin_in_the_middle_of_the_rates():
    field = entrants([Kind("fedit", 4), Kind("ffa", 4)], [1, 2, 3, 4, 5])
    assert [each.rate.lr for each in field[::2]] == [3, 2, 4, 1, 5]
    assert [each.kind.method for each in field] == ["fedit", "ffa"] * 5


def test_a_variation_changes_one_thing():
    asked = question()
    allowed = kinds(asked)
    assert variations(asked, at("fedit", 4, 2e-3), allowed) == [
        at("fedit", 2, 2e-3), at("fedit", 8, 2e-3), at("fedit", 4, 2e-3, 5.0),
    ]  # fmt: skip
    assert at("lora-a2", 4, 2e-3, 1.0) in variations(asked, at("lora-a2", 4, 2e-3), allowed)  # 5 is its own
    assert all(each.rate.ratio is None for each in variations(asked, at("ffa", 4, 2e-3), allowed))  # it has one side
    assert at("fedit", 4, 2.5e-2) in variations(asked, at("fedit", 4, 1e-2), allowed)
    named = question({"lr": [1e-3, 1e-2]})
    assert at("fedit", 4, 2.5e-2) not in variations(named, at("fedit", 4, 1e-2), allowed)
    assert at("fedit", 8, 2e-3) not in variations(asked, at("fedit", 4, 2e-3), [Kind("fedit", 4)])  # beyond the budget


def test_a_trial_is_scored_on_the_validation_part_of_its_draw():
    asked = question(method={"name": "lora-a2", "pool_rank": 32}, evaluate={"every": 1}, run={"seed": 3})
    cell = trial(asked, at("lora-a2", 8, 2e-3, 1.0), 7, 11, str)
    config = cell.config
    assert (config.evaluate.part, config.evaluate.every) == ("validation", 0)
    assert (config.run.rounds, config.run.seed, config.split.seed) == (7, 3, 11)
    assert (config.adapter.rank, config.train.lr, config.train.lr_b_ratio) == (8, 2e-3, 1.0)
    assert config.method.options == {"pool_rank": 32}
    assert trial(asked, at("fedit", 8, 2e-3), 7, 11, str).config.method.options == {}


def test_the_chosen_config_differs_by_method_rank_and_rate_alone():
    asked = question(evaluate={"every": 3})
    chosen = chosen_config(asked, at("ffa", 8, 2e-3))
    assert (chosen.method.name, chosen.adapter.rank, chosen.train.lr) == ("ffa", 8, 2e-3)
    assert (chosen.run, chosen.split, chosen.evaluate) == (asked.config.run, asked.config.split, asked.config.evaluate)


# ------------------------------------------------------------------------------------------------- plans


COSTS = dict.fromkeys("abcdefghijk", 1.0)
PACE = Pace(rounds=20, load=2.0, workers=2)


def test_more_time_never_buys_a_poorer_plan_and_none_fits_in_no_time():
    places = []
    for seconds in (10, 30, 100, 200, 400, 800, 1600, 3200, 6400, 12800):
        plan, expected = opening(COSTS, 5, PACE, seconds)
        places.append(len(PLANS) if plan is None else PLANS.index(plan))
        assert plan is None or plan is PLANS[-1] or expected <= seconds
    assert places == sorted(places, reverse=True)
    assert (places[0], places[-1]) == (len(PLANS), 0)
    assert opening(COSTS, 5, PACE, 10)[1] > 10


def test_plans_grow_in_rounds_and_end_with_two_on_all_rounds():
    for plan in PLANS:
        shares = [rung.share for rung in plan.rungs]
        assert shares == sorted(shares)
        assert (plan.rungs[-1].keep, plan.rungs[-1].share) == (2, 1.0)
        assert plan.rungs[-1].draws >= 3


def test_the_rest_of_a_plan_fits_what_is_left():
    for done, seconds in itertools.product((1, 2, 3), (100, 400, 2000)):
        rungs = rest(done, 0.25, 1.0, PACE, seconds)
        assert rungs[-1].keep == 2
        assert later(rungs, 1.0, PACE) <= seconds or rungs == rest(done, 0.25, 1.0, PACE, 0)
    assert len(rest(1, 0.25, 1.0, PACE, 5000)) > len(rest(1, 0.25, 1.0, PACE, 100))
    assert all(rung.share >= 0.5 for rung in rest(1, 0.5, 1.0, PACE, 100))


def test_the_last_rung_takes_the_draws_that_fit():
    pace = Pace(rounds=20, load=5.0, workers=2)  # 50 seconds a draw
    assert [last_draws(10, 1.0, pace, seconds) for seconds in (10, 200, 300, 5000)] == [0, 3, 5, 10]


# ------------------------------------------------------------------------------------------------- who goes on


def test_candidates_are_ranked_by_the_draws_that_all_have():
    a, b, c = at("fedit", 4, 1e-3), at("ffa", 4, 1e-3), at("flora", 4, 1e-3)
    scores = {a: {0: [0.5], 1: [0.5], 2: [0.9]}, b: {0: [0.4], 1: [0.7]}, c: {0: [0.9], 1: [0.9]}}
    found = judged(scores, [0, 1, 2], failed=[])
    assert (found.draws, found.best) == ((0, 1), (c, b, a))
    assert judged(scores, [0, 1, 2], failed=[c.label]).best == (b, a)


def test_a_rung_cut_in_its_first_draw_counts_whom_it_saw():
    a, b = at("fedit", 4, 1e-3), at("ffa", 4, 1e-3)
    assert judged({a: {0: [0.5]}, b: {}}, [0, 1], failed=[]).best == (a,)
    assert judged({a: {}, b: {}}, [0, 1], failed=[]).best == ()


def test_other_metrics_and_then_the_smaller_rate_decide_a_tie():
    a, b, c = at("fedit", 4, 1e-3), at("fedit", 4, 2e-3), at("fedit", 4, 4e-3)
    assert judged({a: {0: [0.5, -2.0]}, c: {0: [0.5, -1.0]}, b: {0: [0.5, -1.0]}}, [0], failed=[]).best == (b, c, a)


def test_the_last_rung_has_two_kinds_and_not_two_rates_of_one():
    best = [at("fedit", 4, 1e-3), at("fedit", 4, 2e-3), at("fedit", 8, 1e-3), at("ffa", 4, 1e-3)]
    last, semifinal = Rung("kinds", 2, 1.0, 5), Rung("kinds", 3, 1.0, 5)
    assert next_field(question(), last, best, []) == [best[0], best[2]]
    assert next_field(question(), semifinal, best, []) == [best[0], best[2], best[3]]
    assert next_field(question(), last, best[:2], []) == best[:2]  # where there is but one kind


def test_the_second_rung_has_the_two_best_rates_of_the_best_methods_and_variations_of_the_best():
    asked = question()
    best = [at("fedit", 4, 1e-3), at("ffa", 4, 2e-3), at("fedit", 4, 2e-3), at("fedit", 4, 5e-4), at("flora", 4, 1e-3)]
    field = next_field(asked, Rung("variations", 2, 0.5, 1), best, kinds(asked))
    assert {each.kind.method for each in field} == {"fedit", "ffa"}
    assert field[:2] == [best[0], best[2]]
    assert best[3] not in field
    assert at("fedit", 8, 1e-3) in field
    assert at("fedit", 8, 2e-3) not in field
    assert len(field) == len(set(field))
