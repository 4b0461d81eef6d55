"""What README and guides tell newcomers to type works as it is written, in an empty folder.

Of a page the blocks are taken in order: a file where the first line is a comment that names one, Python, or commands.
"""

import re
import runpy
import shlex
from pathlib import Path

import pytest

from fedlora.training.generated import encoder as generated

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.S | re.M)
FILE = re.compile(r"# ([\w.-]+\.(?:py|toml))\n")
NUMBER = re.compile(r"\d+(?:\.\d+)?")


@pytest.fixture(scope="module")
def small_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def small_base(monkeypatch, small_cache):
    """The base `generated`, of one layer and after few steps, so that it is there in a second."""
    real = generated._train_base
    monkeypatch.setenv("XDG_CACHE_HOME", str(small_cache))
    monkeypatch.setattr(generated, "_train_base", lambda _w, _l, _s, seed, folder: real(16, 1, 20, seed, folder))


def follow(page, folder, fedlora):
    """Do what a page says; returns what its commands printed."""
    told = []
    for number, (language, source) in enumerate(BLOCK.findall(page.read_text(encoding="utf-8"))):
        if named := FILE.match(source):
            (folder / named[1]).write_text(source, encoding="utf-8")
        elif language == "python":
            script = folder / f"block{number}.py"
            script.write_text(source, encoding="utf-8")
            runpy.run_path(str(script))
        else:
            for line in source.replace("\\\n", " ").splitlines():
                program, *words = shlex.split(line, comments=True)
                assert program == "fedlora", f"nobody tries: {line}"
                code, out, err = fedlora(*words)
                assert code == 0, f"{line}\n{out}\n{err}"
                told.append(out)
    return told


@pytest.mark.usefixtures("small_base")
@pytest.mark.parametrize("name", ["from-peft-and-trl", "from-flower"])
def test_a_guide_works_as_it_is_written(name, tmp_path, monkeypatch, fedlora):
    monkeypatch.chdir(tmp_path)
    told = follow(ROOT / "docs" / f"{name}.md", tmp_path, fedlora)
    assert len(told) >= 4
    assert all(told)


@pytest.mark.skipif(not (ROOT / "studies" / "bases").is_dir(), reason="the source archive has no trained base")
def test_the_guide_to_language_models_works_as_it_is_written(tmp_path, monkeypatch, fedlora, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies").symlink_to(ROOT / "studies")
    told = follow(ROOT / "docs" / "language-models.md", tmp_path, fedlora)
    assert len(told) >= 5
    assert any("loss" in line and "done" in line for line in told)


def alike(told, expected):
    """Same words, and numbers that differ by no more than processors' rounding can make of a short run."""
    assert NUMBER.sub("N", told) == NUMBER.sub("N", expected)
    for now, then in zip(NUMBER.findall(told), NUMBER.findall(expected), strict=True):
        assert float(now) == pytest.approx(float(then), rel=0.02, abs=0.12), f"{now} in place of {then}"


def readme_example():
    """The README's Python, and what it says that this prints."""
    (code, printed), *others = re.findall(
        r"```python\n(.*?)```\n\n```text\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.S
    )
    assert not others
    return code, printed


def test_the_example_of_the_readme_is_short():
    code, printed = readme_example()
    assert len(code.splitlines()) <= 12
    assert len(printed.splitlines()) >= 3


@pytest.mark.slow
def test_the_readme_prints_what_it_says(tmp_path, monkeypatch, capsys):
    """On the real base `generated`, which is made first where it is not there."""
    code, printed = readme_example()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "example.py").write_text(code, encoding="utf-8")
    runpy.run_path("example.py")
    alike(capsys.readouterr().out, printed)
    assert (tmp_path / "my-adapter" / "adapter_config.json").is_file()


@pytest.mark.slow
def test_the_notebook_runs_and_says_what_it_says(tmp_path):
    """Every cell of the quickstart, in a kernel of its own; printed outputs are those that are stored."""
    nbformat = pytest.importorskip("nbformat", reason="pip install -e '.[docs]'")
    nbclient = pytest.importorskip("nbclient", reason="pip install -e '.[docs]'")
    stored = nbformat.read(ROOT / "examples" / "quickstart.ipynb", as_version=4)
    notebook = nbformat.from_dict(stored)
    before = [printed(cell) for cell in stored.cells]
    assert sum(bool(text) for text in before) >= 4
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    for told, expected in zip(map(printed, notebook.cells), before, strict=True):
        alike(told, expected)


def printed(cell):
    """The text that a cell printed or showed."""
    outputs = cell.get("outputs", ())
    return "".join(
        out.get("text") or out.get("data", {}).get("text/plain", "") for out in outputs if out.output_type != "error"
    )
