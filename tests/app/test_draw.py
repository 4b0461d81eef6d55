"""The draw of the examples and their owners, apart from the seed of the training."""

import json

import pytest

from fedlora.app.build.dataset import deal, load_dataset
from fedlora.app.build.method import make_method
from fedlora.app.build.simulation import build, client_ranks, load
from fedlora.app.config.schema import make_config, read_config
from fedlora.app.run.run import Run
from fedlora.errors import ConfigError


def dealt(run_seed, **split):
    tree = {"run": {"seed": run_seed}, "data": {"train_examples": 300}, "split": {"clients": 5, **split}}
    config = make_config(tree)
    dataset, owners = deal(config, load_dataset(config))
    return dataset.train.texts, {client: owned.train.tolist() for client, owned in owners.clients.items()}


def test_without_a_draw_the_run_seed_draws():
    assert dealt(3) == dealt(3, seed=3) == dealt(7, seed=3)
    assert dealt(3) != dealt(4)


def test_the_draw_decides_on_examples_and_owners():
    (texts, owners), (other_texts, other_owners) = dealt(0, seed=3), dealt(0, seed=4)
    assert texts != other_texts
    assert owners != other_owners


def test_the_ranks_of_a_profile_go_with_the_draw():
    def ranks(**keys):
        config = make_config({"clients": {"ranks": "uniform"}, "split": {"clients": 30}, **keys})
        return client_ranks(config, 30, make_method("zeropad", {}))

    by_run = ranks(run={"seed": 1})
    assert by_run == ranks(run={"seed": 2}, split={"clients": 30, "seed": 1})
    assert by_run != ranks(run={"seed": 2})


def test_another_training_seed_on_one_draw_has_the_same_clients_and_another_result(config, tmp_path):
    folders = []
    for seed in (0, 5):
        path = config(run={"seed": seed}, split={"seed": 9})
        whole = read_config(path)
        folders.append(tmp_path / f"run-{seed}")
        list(Run(build(whole, load(whole), workers=1), folders[-1]).rounds())
    splits = [json.loads((folder / "split.json").read_text()) for folder in folders]
    rounds = [(folder / "rounds.jsonl").read_text() for folder in folders]
    assert splits[0] == splits[1]
    assert rounds[0] != rounds[1]


def test_a_draw_is_a_whole_number_from_zero():
    with pytest.raises(ConfigError, match=r"split\.seed is -1"):
        make_config({"split": {"seed": -1}})
