"""Runs with natural clients: who is scored on what, with which model, and what records and pages tell."""

import json

import numpy
import pytest
import torch

from fedlora.app.build.simulation import build
from fedlora.app.config.schema import read_config
from fedlora.app.run.dry_run import dry_run
from fedlora.core.adapter import effective
from fedlora.core.rounds import ScoreJob
from fedlora.federation.server import begin, federate, global_model, newcomer_model
from fedlora.methods import BUILT_IN


@pytest.fixture
def wards(config, tmp_path):
    """A config of nine natural clients, of 10 to 50 examples."""
    sizes = {f"ward {n}": 10 + 5 * n for n in range(9)}

    def write(method="fedit", **sections):
        from fedlora.training.generated.requests import generated_dataset

        data = generated_dataset(sum(sizes.values()), 30)
        owners = [ward for ward, size in sizes.items() for _ in range(size)]
        owners = [owners[n] for n in numpy.random.default_rng(0).permutation(len(owners))]
        (tmp_path / "wards").mkdir(exist_ok=True)
        for part, examples in (("train", data.train), ("test", data.test)):
            rows = [
                {"text": text, "label": data.labels[label], **({"who": owner} if part == "train" else {})}
                for text, label, owner in zip(
                    examples.texts, examples.labels, owners if part == "train" else [None] * 30, strict=True
                )
            ]
            (tmp_path / "wards" / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        split = {"kind": "natural", "column": "who", **sections.pop("split", {})}
        return config(data={"path": str(tmp_path / "wards")}, split=split, method={"name": method}, **sections)

    return write


NEW = {"min_examples": 15, "max_examples": 30, "test_by": "order", "unseen": 2}


def test_a_run_tells_every_metric_over_clients_and_of_those_who_never_trained(wards, fedlora, tmp_path):
    code, said, _ = fedlora("run", wards(split=NEW), "--out", tmp_path / "out")
    assert code == 0
    assert "left out, with fewer than 15 examples: 1 client" in said
    assert "never trained, scored as newcomers: 2 clients with" in said
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    last = json.loads((tmp_path / "out/rounds.jsonl").read_text().splitlines()[-1])
    for part, count in (("over_clients", 6), ("unseen_clients", 2)):
        assert summary[part] == last[part]
        assert summary[part].keys() == {"accuracy", "loss"}
        assert {told["count"] for told in summary[part].values()} == {count}
    assert summary["over_clients"]["accuracy"]["mean"] == summary["personal"]["mean"]
    assert summary["over_clients"]["accuracy"]["weighted_mean"] == pytest.approx(summary["global"]["accuracy"])
    assert (summary["clients"], summary["small_clients"], summary["left_out_clients"]) == (6, 1, [])
    dealt = json.loads((tmp_path / "out/split.json").read_text())
    assert len(dealt["unseen"]) == 2
    assert not dealt["unseen"].keys() & dealt["clients"].keys()
    assert {
        line["client"] for line in map(json.loads, (tmp_path / "out/clients.jsonl").read_text().splitlines())
    } == set(dealt["clients"])
    page = (tmp_path / "out/report.html").read_text()
    assert "<h2>Clients</h2>" in page
    assert "unseen: worst tenth of clients" in page
    assert fedlora("report", tmp_path / "out", "--out", tmp_path / "page")[0] == 0
    assert "| fedit | loss |" in (tmp_path / "page/table.md").read_text()


def test_counts_by_label_give_f1_of_every_kind(wards, fedlora, tmp_path):
    assert fedlora("run", wards(split=NEW, evaluate={"all_metrics": True}), "--out", tmp_path / "out")[0] == 0
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    names = {"accuracy", "loss", "macro_f1", "weighted_f1"}
    assert summary["over_clients"].keys() == summary["unseen_clients"].keys() == names


def test_runs_of_other_clients_say_nothing_new(config, fedlora, tmp_path):
    assert fedlora("run", config(), "--out", tmp_path / "out")[0] == 0
    for file in ("summary.json", "rounds.jsonl", "config.toml", "split.json"):
        text = (tmp_path / "out" / file).read_text()
        assert not [
            word for word in ("unseen", "over_clients", "small_clients", "test_by", "_examples =") if word in text
        ]
    assert "<h2>Clients</h2>" not in (tmp_path / "out/report.html").read_text()


@pytest.mark.parametrize("part", ["test", "validation"])
def test_choices_on_validation_do_not_look_at_unseen_clients(wards, part):
    path = wards(split={**NEW, "validation": 0.2}, evaluate={"part": part})
    simulation = build(read_config(path))
    ((_, record), *_) = federate(simulation.federation, begin(simulation.federation, simulation.head))
    assert bool(record.unseen) == (part == "test")
    assert record.over_clients


def trained(path):
    simulation = build(read_config(path))
    *_, (server, record) = federate(simulation.federation, begin(simulation.federation, simulation.head))
    return simulation, server, record


def test_the_score_of_unseen_clients_is_the_global_models_on_their_examples(wards):
    simulation, server, record = trained(wards(split=NEW))
    model = global_model(simulation.federation, server)
    rows = [simulation.dataset.train.texts[i] for own in simulation.split.unseen.values() for i in own.test]
    scores = simulation.trainer.score([ScoreJob(client, model, "unseen") for client in simulation.split.unseen])
    assert sum(score.examples for score in scores) == len(rows)
    accuracies = [score.sums["correct"] / score.examples for score in scores]
    assert record.unseen["accuracy"].mean == pytest.approx(sum(accuracies) / 2)
    (whole,) = simulation.trainer.score([ScoreJob(None, model)])
    assert (
        whole.examples
        == len(simulation.dataset.test)
        == sum(len(own.test) for own in simulation.split.clients.values())
    )


@pytest.mark.parametrize("method", sorted(BUILT_IN))
def test_a_newcomer_has_what_its_methods_facts_say(wards, method):
    """The global model where there is one; else the shared side as it is, and the private one as the run began."""
    facts = BUILT_IN[method]().facts
    split = {**NEW, "validation": 0.2} if facts.needs_validation else NEW
    simulation, server, record = trained(wards(method, split=split, run={"rounds": 1}))
    assert record.unseen["accuracy"].count == 2
    newcomer, spec = newcomer_model(simulation.federation, server), simulation.spec
    model = global_model(simulation.federation, server)
    if facts.newcomer == "the global model":
        assert all(effective(newcomer, spec)[m].equal(update) for m, update in effective(model, spec).items())
        return
    assert model is None
    begun = begin(simulation.federation, simulation.head).state.adapter
    for side in ("input", "output"):
        now, then = newcomer.adapter.side(side), begun.side(side)
        stays = side in facts.private_sides
        assert all(torch.equal(now[m], then[m]) for m in then) == stays
        assert f"the averaged {side} side" in facts.newcomer or stays


def test_an_unseen_client_of_the_name_that_central_training_uses(wards, tmp_path):
    """Central training calls its one client `all`; so may a natural client be called."""
    path = wards("central", split={**NEW, "unseen": 5})
    train = tmp_path / "wards/train.jsonl"
    simulation = build(read_config(path))
    name = next(iter(simulation.split.unseen))
    train.write_text(train.read_text().replace(f'"{name}"', '"all"'))
    for seed in range(40):
        simulation = build(read_config(path, [f"run.seed={seed}"]))
        if "all" in simulation.split.unseen:
            break
    _, record = next(federate(simulation.federation, begin(simulation.federation, simulation.head)))
    assert record.unseen["loss"].count == 5
    assert record.clients[0].score.examples == len(simulation.dataset.test)


def test_a_dry_run_counts_unseen_clients(wards):
    simulation = build(read_config(wards(split=NEW)))
    unseen = sum(len(own.test) for own in simulation.split.unseen.values())
    assert [cost.scored for cost in dry_run(simulation).rounds] == [len(simulation.dataset.test) + unseen] * 2


def test_a_resumed_run_ends_with_the_same_bytes(wards, fedlora, tmp_path):
    path = wards(split=NEW)
    assert fedlora("run", path, "--out", tmp_path / "whole")[0] == 0
    assert fedlora("run", path, "--out", tmp_path / "parts", "--set", "run.rounds=1")[0] == 0
    assert fedlora("run", path, "--out", tmp_path / "parts", "--resume")[0] == 0
    for file in ("rounds.jsonl", "clients.jsonl", "summary.json"):
        assert (tmp_path / "parts" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_another_set_of_unseen_clients_is_another_run(wards, fedlora, tmp_path):
    assert fedlora("run", wards(split=NEW), "--out", tmp_path / "out", "--set", "run.rounds=1")[0] == 0
    code, _, err = fedlora("run", wards(split={**NEW, "unseen": 3}), "--out", tmp_path / "out", "--resume")
    assert code == 2
    assert "unseen" in err


def test_a_damaged_spread_is_named(wards, fedlora, tmp_path):
    assert fedlora("run", wards(split=NEW), "--out", tmp_path / "out")[0] == 0
    rounds = tmp_path / "out/rounds.jsonl"
    rounds.write_text(rounds.read_text().replace('"worst_tenth"', '"wurst_tenth"'))
    code, _, err = fedlora("report", tmp_path / "out", "--out", tmp_path / "page")
    assert code == 2
    assert "over_clients" in err


def test_examples_that_were_handed_over_have_their_test_set_already(wards):
    import fedlora

    data = fedlora.from_lists(["a b", "c d"] * 20, ["x", "y"] * 20, owners=["p", "q", "r", "s"] * 10)
    with pytest.raises(
        fedlora.UserError, match=r"split\.test_by is 'order', but the examples were handed over in Python"
    ):
        fedlora.run(data=data, split={"kind": "natural", "test_by": "order"})
