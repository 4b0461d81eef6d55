"""Figures of more clients than a page can show: some of them, and how many is said."""

import re

import numpy

from fedlora.report import heat_maps
from fedlora.report.figures import client_scores
from fedlora.report.heat_maps import label_map, overlap_map
from fedlora.report.read import Group, RunData
from fedlora.report.task import read_task
from fedlora.report.text import some


def run_of(count):
    clients = [f"c{number:04d}" for number in range(count)]
    lines = [
        {
            "round": 1, "client": client, "score": number / count, "score_examples": 4, "examples": 4, "rank": 2,
            "status": "accepted", "notes": {"side": "output", "slots": {"layer.0.query": [number % 3]}},
        }
        for number, client in enumerate(clients)
    ]  # fmt: skip
    split = {"labels": [f"l{k}" for k in range(25)], "clients": {client: {"labels": [1] * 25} for client in clients}}
    config = {"run": {"seed": 0}, "method": {"name": "lora-a2"}}
    rounds = [{"round": 1, "personal": {}, "global": {"accuracy": 1}}]
    return RunData(None, "lora-a2", config, rounds, lines, split, {"modules": ["layer.0.query"]}, read_task({}), True)


def test_some_of_many():
    values = list(range(1001))
    for most in (1, 2, 63, 400, 1000, 1001, 5000):
        own = some(values, most)
        assert len(own) <= most
        assert len(own) * 2 > min(most, len(values)) or most == 1
        assert own[0] == 0
        assert len(set(numpy.diff(own))) <= 1
    assert some([], 3) == []


def test_three_thousand_clients():
    run = run_of(3000)
    labels, overlap = label_map(run, "t"), overlap_map(run, "output", "t")
    assert "(158 of 3,000 clients)" in labels  # every 19th, so that 25 labels of each fit into 4,000 cells
    assert len(re.findall('id="labels-cell|id="cell', labels)) <= 4000
    assert "(63 of 3,000 clients)" in overlap
    dots = client_scores([Group("lora-a2", (run,))])
    assert dots.svg.count("training examples") <= 400
    assert "client c0000" in dots.svg
    assert dots.remarks == ["2,625 clients have no dot: there are too many."]


def test_few_clients_are_all_there():
    run = run_of(30)
    assert " clients)" not in label_map(run, "t")
    dots = client_scores([Group("lora-a2", (run,))])
    assert dots.svg.count("training examples") == 30
    assert dots.remarks == []


def test_a_map_that_runs_share_is_drawn_once(monkeypatch):
    drawn, usual = [], heat_maps.to_svg
    monkeypatch.setattr(heat_maps, "to_svg", lambda *own: drawn.append(own) or usual(*own))
    first, second = label_map(run_of(7), "who owns what"), label_map(run_of(7), "who owns what")
    assert first == second
    assert len(drawn) == 1
    assert label_map(run_of(8), "who owns what") != first
    assert label_map(run_of(7), "another title") != first
    assert len(drawn) == 3
