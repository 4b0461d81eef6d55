"""Mutants of honest replies, and a validate that leaves out one of its checks."""

import json
from dataclasses import replace

import mutants
import pytest

from fedlora.federation import transport, validate

SEED = 6


def test_twenty_thousand_mutants():
    found = mutants.fuzz(20_000, SEED)
    assert found["faults"] == []
    tried, accepted = sum(found["tried"].values()), sum(found["accepted and harmless"].values())
    assert tried == 20_000
    assert len(found["tried"]) == 14
    assert 1_000 < accepted < 10_000  # the judge had work to do, and so had validation
    assert len(found["reasons"]) >= 30
    assert found["of it while fuzzing, MiB"] < 200


def nothing(*_):
    """A check that was left out."""


OWN = validate._require_chosen
LEFT_OUT = {
    "slot numbers": (validate, "require_slots", nothing),
    "finite numbers and norm": (validate, "require_norm", nothing),
    "the norm's limit": (
        validate,
        "require_norm",
        lambda payload, limit, own=validate.require_norm: own(payload, None),
    ),
    "envelope": (validate, "require_envelope", nothing),
    "score": (validate, "_require_score", nothing),
    "what else there is": (validate, "_require_known", nothing),
    "modules and shapes": (validate, "_difference", nothing),
    "chosen slots": (validate, "_require_chosen", nothing),
    "budget": (
        validate,
        "_require_chosen",
        lambda key, entries, slots: OWN(key, entries, replace(slots, budget=999)),
    ),
    "odd JSON": (transport, "strict_json", json.loads),
}


@pytest.mark.parametrize("check", LEFT_OUT)
def test_a_door_without_one_of_its_checks_is_caught(monkeypatch, check):
    monkeypatch.setattr(*LEFT_OUT[check])
    found = mutants.fuzz(20_000, SEED, enough=1)
    assert found["faults"], f"nobody missed the check of {check}"
