"""H9: what a site keeps of a run is asked and exported like a finished run."""

import json

import pytest


@pytest.mark.parametrize("method", ["fedsa", "fedit", "full"])
def test_a_site_asks_and_exports_its_own_model(world, threads, command, monkeypatch, tmp_path, method):
    here = world(method)
    threads(here)
    here.deploy(tmp_path / "out")
    (kept,) = (here.folder / "sites" / "ash" / "private").glob("grove-*")
    monkeypatch.chdir(tmp_path)
    code, said, err = command("predict", kept, "where is my card")
    assert (code, err) == (0, "")
    assert said.count(" %  ") >= 3
    assert command("export", kept, tmp_path / "mine")[0] == 0
    assert json.loads((tmp_path / "mine" / "fedlora.json").read_text())["client"] == "ash"
    if method == "fedit":  # one model for all: the site's answers are the server's
        assert said.endswith(command("predict", tmp_path / "out", "where is my card")[1])


def test_a_sites_base_is_seen_from_its_file(world, command, small, tmp_path):
    import shutil

    from fedlora.deploy.config import build_site, read_site

    here = world("fedsa")
    path = here.site("ash")
    shutil.copytree(here.shared["model"]["base"], path.parent / "base")
    path.write_text(path.read_text().replace("[site]", '[site]\nbase = "base"'))
    assert read_site(path).site.base == str(path.parent / "base")
    assert build_site(read_site(path)).base.source == str(path.parent / "base")
