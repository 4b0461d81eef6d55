"""The tables of a study, from cells whose numbers are known."""

import csv
import io
import random

import pytest

from fedlora.app.study.compared import tables
from fedlora.app.study.reading import make_study
from fedlora.report.study_table import study_csv, study_markdown, study_tables

ACCURACY = {"name": "accuracy", "higher_is_better": True, "format": "percent", "title": "accuracy, %"}
LOSS = {"name": "loss", "higher_is_better": False, "format": "plain", "title": "loss"}


def study_of(folder, variants, **study):
    tree = {
        "study": {"name": "x", "reference": "base", "draws": 6, **study},
        "variant": [{"method": "fedit", **({"name": v} if isinstance(v, str) else v)} for v in variants],
    }
    return make_study(tree, folder)


def line(variant, draw, score, personal=None, seed=0, cost=100):
    """A cell of two rounds, the first of which reached half of its score."""

    def told(share):
        mean = share * (score if personal is None else personal)
        return {
            "global": None if score is None else {"accuracy": share * score, "loss": 1.0 - share * score},
            "personal": {"mean": mean, "worst_tenth": mean / 2, "loss": 1.0 - mean},
        }

    spent = {"bytes_up": cost, "bytes_down": 2 * cost, "steps": cost}
    half = {key: value // 2 for key, value in spent.items()}
    return {
        "setting": "", "variant": variant, "draw": draw, "seed": seed, "lr": 1e-3, **told(1.0), **spent,
        "clients": {"0.1": 0.1, "0.5": 0.5, "0.9": 0.9}, "learning_rates": {"A": 1e-3, "B": 5e-3},
        "intervals": None,
        "curve": [{"round": 1, **half, **told(0.5)}, {"round": 2, **spent, **told(1.0)}],
    }  # fmt: skip


def rows(table):
    return {row["variant"]: row for row in table["rows"]}


def noisy(variants, draws=6, spread=0.1, noise=0.01):
    """Scores of variants that share what a draw does to them."""
    chance = random.Random(5)
    of_draw = [chance.gauss(0.5, spread) for _ in range(draws)]
    return [
        line(name, draw, of_draw[draw] + better + chance.gauss(0.0, noise))
        for name, better in variants.items()
        for draw in range(draws)
    ]


def test_a_planted_difference_is_found_though_draws_differ_by_more(tmp_path):
    study = study_of(tmp_path, ["base", "better", "worse", "same"])
    lines = noisy({"base": 0.0, "better": 0.05, "worse": -0.05, "same": 0.0})
    table, _ = tables(study, [ACCURACY], lines)
    told = {name: row["comparison"] for name, row in rows(table).items()}
    assert {name: each["verdict"] for name, each in told.items() if each} == {
        "better": "better", "worse": "worse", "same": "tied",
    }  # fmt: skip
    assert told["base"] is None
    assert table["comparisons"] == 3
    assert told["better"]["low"] < told["better"]["difference"] < told["better"]["high"]
    assert told["better"]["high"] - told["better"]["low"] < rows(table)["better"]["high"] - rows(table)["better"]["low"]
    assert table["variance"]["draw"] > 0.5
    assert table["variance"]["seed"] is None  # nothing was run twice


def test_unpaired_scores_would_not_tell_them_apart(tmp_path):
    """The planted fault: draws dealt out anew to one method hide the same difference."""
    lines = noisy({"base": 0.0, "better": 0.05})
    for each in lines:
        if each["variant"] == "better":
            each["draw"] = (each["draw"] + 3) % 6
    table, _ = tables(study_of(tmp_path, ["base", "better"]), [ACCURACY], lines)
    assert rows(table)["better"]["comparison"]["verdict"] == "tied"


def test_where_less_is_better_the_verdict_turns(tmp_path):
    lines = noisy({"base": 0.0, "other": 0.05})
    for each in lines:
        each["global"] = {"loss": each["global"]["accuracy"]}
        for at in each["curve"]:
            at["global"] = {"loss": at["global"]["accuracy"]}
    table, _ = tables(study_of(tmp_path, ["base", "other"]), [LOSS], lines)
    assert rows(table)["other"]["comparison"]["verdict"] == "worse"
    task = {"metrics": [LOSS], "chance": None}
    (words, _) = study_tables({"task": task, "tables": tables(study_of(tmp_path, ["base", "other"]), [LOSS], lines)})
    assert [row[0] for row in words.rows] == ["base", "other"]  # the best first


def test_extra_seeds_stand_in_no_mean_and_tell_the_share_of_the_training(tmp_path):
    study = study_of(tmp_path, ["base", "other"], extra_seeds=[1], repeated=2)
    lines = noisy({"base": 0.0, "other": 0.02})
    more = [line(name, draw, 0.99, seed=1) for name in ("base", "other") for draw in (0, 1)]
    before, after = tables(study, [ACCURACY], lines)[0], tables(study, [ACCURACY], [*lines, *more])[0]
    assert before["rows"] == after["rows"]
    assert after["variance"]["seed"] > 0.0


def test_a_variant_with_other_seeds_is_paired_by_its_draws(tmp_path):
    study = study_of(tmp_path, ["base", {"name": "again", "seed_offset": 100}])
    lines = [{**each, "seed": 100 * (each["variant"] == "again")} for each in noisy({"base": 0.0, "again": 0.0})]
    assert rows(tables(study, [ACCURACY], lines)[0])["again"]["comparison"]["draws"] == 6


def test_a_bound_is_shown_and_never_compared(tmp_path):
    study = study_of(tmp_path, ["base", "other", {"name": "central", "bound": True}])
    lines = noisy({"base": 0.0, "other": 0.0, "central": 0.3})
    cheap = [
        {**each, "bytes_up": 1, "bytes_down": 1, "steps": 1} if each["variant"] == "central" else each for each in lines
    ]
    table, _ = tables(study, [ACCURACY], cheap)
    assert rows(table)["central"]["comparison"] is None
    assert table["comparisons"] == 1
    assert table["variance"]["variants"] == ["base", "other"]
    assert table["equal_bytes"] == 300.0  # the bound's two bytes are no budget for the others
    words = study_tables({"task": {"metrics": [ACCURACY], "chance": None}, "tables": [table]})[0]
    assert words.rows[-1][0] == "central (bound)"


def test_a_variant_without_a_global_model_is_not_among_global_ones(tmp_path):
    lines = [
        line(name, d, None if name == "private" else 0.5 + d / 50, 0.9)
        for name in ("base", "private")
        for d in range(6)
    ]
    whole, personal = tables(study_of(tmp_path, ["base", "private"]), [ACCURACY, LOSS], lines)
    assert list(rows(whole)) == ["base"]
    assert list(rows(personal)) == ["base", "private"]
    assert rows(whole)["base"]["mean"] == pytest.approx(0.55)
    assert rows(personal)["base"]["mean"] == pytest.approx(0.9)
    assert rows(whole)["base"]["worst_tenth"] is None
    assert rows(personal)["base"]["worst_tenth"] == pytest.approx(0.45)


def test_without_the_reference_nothing_is_compared(tmp_path):
    lines = [
        line(name, d, None if name == "base" else 0.5 + d / 50, 0.9) for name in ("base", "other") for d in range(6)
    ]
    whole, personal = tables(study_of(tmp_path, ["base", "other"]), [ACCURACY], lines)
    assert whole["reference"] is None
    assert whole["comparisons"] == 0
    assert personal["reference"] == "base"


def test_draws_that_one_lacks_do_not_count_for_the_two(tmp_path):
    lines = noisy({"base": 0.0, "other": 0.05, "once": 0.0})
    lines = [x for x in lines if (x["variant"], x["draw"]) not in {("other", 0), ("other", 1)}]
    lines = [x for x in lines if x["variant"] != "once" or x["draw"] == 2]
    table, _ = tables(study_of(tmp_path, ["base", "other", "once"]), [ACCURACY], lines)
    assert rows(table)["other"]["comparison"]["draws"] == 4
    assert rows(table)["once"]["comparison"] is None  # one draw is no comparison
    assert rows(table)["once"]["low"] is None
    assert table["variance"] is None  # no two variants have all draws


def test_equal_budgets_take_the_score_that_the_cheapest_ones_cost_pays_for(tmp_path):
    lines = [
        line(name, d, 0.8, cost=cost)
        for name, cost in (("base", 100), ("dear", 200), ("dearest", 900))
        for d in range(6)
    ]
    study = study_of(tmp_path, ["base", "dear", "dearest"], targets=[0.3, 0.99], budgets=[450])
    table = rows(tables(study, [ACCURACY], lines)[0])
    assert table["base"]["equal_bytes"] == pytest.approx(0.8)
    assert table["dear"]["equal_bytes"] == pytest.approx(0.4)  # its first round alone
    assert table["dearest"]["equal_bytes"] is None
    assert table["dear"]["equal_steps"] == pytest.approx(0.4)
    assert [table[name]["budgets"][0] for name in ("base", "dear", "dearest")] == [
        pytest.approx(0.8),
        pytest.approx(0.4),
        None,
    ]
    near, far = table["dear"]["targets"]
    assert (near["reached"], near["rounds"], near["bytes"], near["steps"]) == (6, 1, 300, 100)
    assert (far["reached"], far["bytes"]) == (0, None)


def test_the_files_tell_what_the_tables_do(tmp_path):
    study = study_of(tmp_path, ["base", "a|b"])
    lines = noisy({"base": 0.0, "a|b": 0.05})
    found = {
        "study": {"tuning_draws": []}, "task": {"metrics": [ACCURACY, LOSS], "chance": None}, "environments": [{}],
        "missing": [{}], "choices": [], "tables": tables(study, [ACCURACY, LOSS], lines),
    }  # fmt: skip
    text = study_markdown(found)
    assert text.count("### ") == 2
    assert "| a\\|b |" in text
    assert "1 cell of this study failed or was not run yet" in text
    table = list(csv.DictReader(io.StringIO(study_csv(found))))
    assert len(table) == 4
    first = rows(found["tables"][0])
    assert float(table[1]["difference_difference"]) == first["a|b"]["comparison"]["difference"]
    assert table[0]["difference_verdict"] == ""
    assert float(table[0]["mean"]) == first["base"]["mean"]


def test_of_one_draw_the_intervals_are_over_examples_and_the_page_says_that_it_is_a_demonstration(tmp_path):
    study = study_of(tmp_path, ["base", "other"], draws=1)
    ends = {"global": {"accuracy": [0.3, 0.7], "loss": [0.4, 0.6]}, "personal": {"accuracy": [0.35, 0.65]}}
    lines = [{**line(name, 0, 0.5), "intervals": ends} for name in ("base", "other")]
    results = {
        "study": {"tuning_draws": []}, "task": {"name": "x", "metrics": [ACCURACY, LOSS], "chance": None},
        "tables": tables(study, [ACCURACY, LOSS], lines), "missing": [], "choices": [], "environments": [],
    }  # fmt: skip
    whole, personal = study_tables(results)
    assert whole.columns[2] == personal.columns[2] == "95 % interval over test examples"
    assert [row[2] for row in whole.rows] == ["30.0 to 70.0"] * 2
    assert [row[2] for row in personal.rows] == ["35.0 to 65.0"] * 2
    assert "0.500 (0.400 to 0.600)" in whole.rows[0]
    assert any("a demonstration" in note for note in whole.notes)
    assert all(row["comparison"] is None for table in results["tables"] for row in table["rows"])


def test_of_several_draws_intervals_over_examples_of_one_of_them_are_not_told(tmp_path):
    study = study_of(tmp_path, ["base"])
    ends = {"global": {"accuracy": [0.3, 0.7]}}
    table, _ = tables(study, [ACCURACY], [{**line("base", draw, 0.5), "intervals": ends} for draw in range(6)])
    assert rows(table)["base"]["over_examples"] is None
