"""In a deployment the sites get `finish`, and with it a model of their own, before the page is drawn."""

from tests.deploy.test_harm import Harmful

from fedlora.deploy.server import run_server


class Watching(Harmful):
    """A connection that notes, for every `finish` that goes out, whether the page was there."""

    def __init__(self, world, out):
        super().__init__(world)
        self.out, self.page_was_there = out, []

    def send(self, node, data, patience):
        if b'"kind": "finish"' in data[:200]:
            self.page_was_there.append((self.out / "report.html").exists())
        return super().send(node, data, patience)


def own_models(world):
    return sorted(path.parts[-4] for path in (world.folder / "sites").glob("*/private/*/adapter"))


def test_finish_reaches_the_sites_before_the_page_is_drawn(world, threads, tmp_path):
    own = world("fedsa", rounds=1)
    threads(own)
    connection = Watching(own, tmp_path / "out")
    list(run_server(own.config, connection, tmp_path / "out", clock=connection.clock))
    assert connection.page_was_there == [False, False, False]
    assert own_models(own) == ["ash", "birch", "cedar"]
    assert (tmp_path / "out" / "report.html").is_file()


def test_sites_get_their_models_though_the_page_fails(world, threads, tmp_path, capsys):
    own = world("fedsa", rounds=1)
    threads(own)
    connection = Harmful(own)
    for _, record in run_server(own.config, connection, tmp_path / "out", clock=connection.clock):
        if record:
            (tmp_path / "out" / "report.html").mkdir()  # no page can be written there
    assert own_models(own) == ["ash", "birch", "cedar"]
    assert (tmp_path / "out" / "summary.json").is_file()
    assert "the run itself is complete, and `fedlora report" in capsys.readouterr().err
