"""Docs that are made from the code are current, and what they say can be run."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_generated_pages_are_current():
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr + "run: make docs"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page):
    """Every `fedlora ...` and `make ...` in a code block names a command, options and files that are there."""
    from typer.main import get_command

    from fedlora.cli import app

    commands = get_command(app).commands
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"```(?:sh)?\n(.*?)```", text, flags=re.S):
        for line in block.replace("\\\n", " ").splitlines():
            words = line.partition("#")[0].split()
            if words[:1] == ["make"]:
                assert re.search(rf"^{words[1]}:", makefile, flags=re.M), line
            if words[:1] == ["fedlora"]:
                command = commands[words[1]]
                options = {name for param in command.params for name in param.opts}
                assert {word for word in words if word.startswith("--")} <= options, line
                for word in words:
                    if word.startswith("examples/"):
                        assert (ROOT / word.partition(":")[0]).exists(), line


def test_the_tests_that_docs_name_are_there():
    named = [
        (page.name, *own)
        for page in PAGES
        for own in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page.read_text(encoding="utf-8"))
    ]
    assert len(named) > 20
    for page, file, name in named:
        source = (ROOT / file).read_text(encoding="utf-8")
        assert re.search(rf"^(def|class) {name}\b", source, flags=re.M), f"{page} names {file}::{name}"


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.toml")), ids=lambda path: path.name)
def test_example_configs_are_right(path):
    from fedlora.app.build.method import make_method
    from fedlora.app.config.schema import read_config

    config = read_config(path)
    make_method(config.method.name, config.method.options)
    assert tomllib.loads(path.read_text())["run"]["name"]


def test_the_method_in_contributing_obeys_the_laws(tmp_path):
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    (tmp_path / "mine.py").write_text(source)
    done = subprocess.run(
        [sys.executable, "-m", "fedlora.cli", "check", f"{tmp_path / 'mine.py'}:Mine", "--examples", "5"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("held") >= 10
