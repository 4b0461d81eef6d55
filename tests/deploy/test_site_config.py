"""A site's own file: what is wrong with it is said in one sentence, with exit code 2."""

import sys
from pathlib import Path

import pytest
import tomli_w

from fedlora import cli
from fedlora.deploy.config import read_site
from fedlora.federation.files import hold


@pytest.fixture
def call(monkeypatch, capsys):
    """`fedlora site FILE`: exit code and the sentence."""

    def go(path):
        monkeypatch.setattr(sys, "argv", ["fedlora", "site", str(path)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, capsys.readouterr().err

    return go


@pytest.mark.parametrize(
    ("site", "data", "sentence"),
    [
        ({"rank": 9}, {}, "site.rank is 9, more than the federation's largest, adapter.rank = 4: lower it"),
        ({"rnak": 2}, {}, "unknown key site.rnak: did you mean 'rank'?"),
        ({"address": "10.0.0.1:9000"}, {}, "site.address is '10.0.0.1:9000', expected a file, or loopback"),
        ({"shared": "none.toml"}, {}, "cannot be read"),
        ({}, {"path": "nowhere"}, "there is no such file or folder"),
        ({}, {"label": "intent"}, "has no column 'intent'"),
        ({"device": "abacus"}, {}, "run.device is 'abacus', which cannot be used here"),
    ],
)
def test_mistakes(world, call, site, data, sentence):
    path = world("fedsa").site("ash")
    tree = {"site": {"name": "ash", "shared": "../../federation.toml", **site}, "data": {"path": "data", **data}}
    path.write_text(tomli_w.dumps(tree))
    code, said = call(path)
    assert code == 2
    assert sentence in said, said


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"data": {}}, "data.labels is not set"),
        ({"model": {"dtype": "auto"}}, "model.dtype is 'auto', and all members need the same"),
        ({"clients": {"ranks": [1, 2]}}, "clients.ranks is set, but a site says its own rank"),
        ({"split": {"permuted": True}}, "split.permuted is true, which only a simulation can do"),
    ],
)
def test_shared_configs_that_no_site_can_have(world, call, section, sentence):
    own = world("fedsa")
    (own.folder / "federation.toml").write_text(tomli_w.dumps({**own.shared, **section}))
    code, said = call(own.site("ash"))
    assert code == 2
    assert sentence in said, said


def test_one_process_a_site(world, call):
    path = world("fedsa").site("ash")
    folder = read_site(path).site.folder
    with hold(Path(folder)) as let_go:
        code, said = call(path)
        let_go()
    assert code == 2
    assert "Another process is at work in" in said
