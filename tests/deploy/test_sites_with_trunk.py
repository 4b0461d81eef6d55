"""Sites that adapt the top layer alone: what lies below it is made of each site's own examples, and stays in memory."""

import shutil

import pytest
from tests.deploy.test_agreement import agree

from fedlora.training.generated.encoder import generated_base


@pytest.fixture
def ground(ground, tmp_path_factory, monkeypatch):
    """The same with a base of two layers, and a cache of this test."""
    folder = tmp_path_factory.mktemp("deep")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    shutil.copytree(ground / "all", folder / "all")
    shutil.copytree(generated_base(width=16, layers=2, steps=5), folder / "base")
    return folder


def test_simulation_is_sites_behind_sockets(world, threads, ground, tmp_path, capsys):
    """Bit for bit, though the simulation computes it of everybody's examples at once."""
    federation = world("fedit", adapter={"layers": [1]})
    threads(federation)
    told = capsys.readouterr().err.count("computing what lies below layer 1")
    assert told == 6  # of three sites' training and test examples, before anything is asked of them
    federation.deploy(tmp_path / "deployed")
    assert not (ground / "cache" / "fedlora" / "trunk").exists(), "a site's examples do not lie in the cache"
    federation.simulate(tmp_path / "simulated")
    assert len(list((ground / "cache" / "fedlora" / "trunk").iterdir())) == 2
    assert capsys.readouterr().err.count("computing what lies below layer 1") == 2
    agree(tmp_path / "simulated", tmp_path / "deployed")
