"""Every method trains a language model: the run ends, its loss falls, and a stopped run goes on to the same bytes."""

import math
import shutil

import pytest
from tests.text_data import text_tree, write_data, write_decoder

from fedlora.app.build.simulation import build, load
from fedlora.app.config.schema import make_config
from fedlora.app.run.run import Run
from fedlora.core.adapter import Start, fresh_adapter
from fedlora.core.rounds import ScoreJob
from fedlora.methods import BUILT_IN
from fedlora.run_files import read_lines, read_object


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    write_data(folder / "data")
    write_decoder(folder / "base")
    return folder


@pytest.fixture(scope="module")
def resources(ground):
    """Data and base of all runs."""
    found = {}

    def of(config):
        part = config.split.validation
        if part not in found:
            found[part] = load(config)
        return found[part]

    return of


def config_of(ground, method, **sections):
    facts = BUILT_IN[method]().facts
    sections.setdefault("adapter", {})
    sections.setdefault("clients", {"ranks": [1, 2, 4] if facts.mixed_ranks else [4]})
    sections["split"] = {"validation": 0.2} if facts.needs_validation else {}
    return make_config(text_tree(ground, method={"name": method}, **sections))


def base_loss(simulation):
    """Of the base alone, over all test examples."""
    start = Start(fresh_adapter(simulation.spec, simulation.spec.rank, 0))
    (score,) = simulation.trainer.score([ScoreJob(None, start)])
    return simulation.trainer.scoring.headline.of(score)


def scored(simulation):
    """The losses of the last round: the global model's, and of the clients' models together."""
    *_, last = Run(simulation)
    headline = last.scoring.headline
    whole = [] if last.global_score is None else [headline.of(last.global_score)]
    return whole + ([] if last.personal is None else [last.personal.weighted_mean])


@pytest.mark.parametrize("method", [name for name, kind in BUILT_IN.items() if kind().facts.trains])
def test_every_method_learns_a_language(ground, resources, method):
    config = config_of(ground, method)
    simulation = build(config, resources(config), workers=1)
    before, after = base_loss(simulation), scored(simulation)
    assert after
    assert all(math.isfinite(loss) and loss < before - 0.05 for loss in after), (before, after)


@pytest.mark.parametrize("method", ["fedit", "fedsa"])
def test_vera_learns_a_language(ground, resources, method):
    config = config_of(ground, method, adapter={"kind": "vera", "rank": 4}, train={"lr": 0.1}, clients={"ranks": [4]})
    simulation = build(config, resources(config), workers=1)
    before, after = base_loss(simulation), scored(simulation)
    assert all(loss < before - 0.01 for loss in after), (before, after)


def tree(folder):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "timings.jsonl"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("method", ["fedsa", "flora"])
def test_a_stopped_run_goes_on_to_the_same_bytes(ground, resources, tmp_path, method):
    config = config_of(ground, method, run={"rounds": 3})
    list(Run(build(config, resources(config), workers=1), tmp_path / "whole"))
    for _ in Run(build(config, resources(config), workers=1), tmp_path / "run"):
        break
    shutil.rmtree(tmp_path / "run" / "adapter", ignore_errors=True)
    list(Run(build(config, load(config), workers=1), tmp_path / "run", resume=True))
    assert tree(tmp_path / "run") == tree(tmp_path / "whole")


def test_records_and_summary_hold_every_metric_by_name(ground, tmp_path):
    data = {"test_share": 0.25}
    natural = {"kind": "natural", "column": "site", "test_by": "random", "unseen": 1}
    config = make_config(text_tree(ground, split=natural, data=data, method={"name": "fedit"}))
    list(Run(build(config, workers=1), tmp_path / "run"))
    names = {"loss", "perplexity", "bits_per_byte", "token_accuracy"}
    lines = [*read_lines(tmp_path / "run" / "rounds.jsonl"), read_object(tmp_path / "run" / "summary.json")]
    for line in lines:
        assert names <= line["global"].keys()
        assert names - {"loss"} <= line["personal"].keys()
        assert set(line["over_clients"]) == set(line["unseen_clients"]) == names
        assert math.isclose(line["global"]["perplexity"], math.exp(line["global"]["loss"]))
        worst = line["over_clients"]["loss"]
        assert worst["worst_tenth"] >= worst["mean"], "the worst have the highest losses"
        assert line["over_clients"]["token_accuracy"]["worst_tenth"] <= line["over_clients"]["token_accuracy"]["mean"]
