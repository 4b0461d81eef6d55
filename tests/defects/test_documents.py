"""What README and guides told newcomers, and was not so."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def code(page):
    """The lines of a page's code blocks."""
    blocks = re.findall(r"^```\w*\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    return [line for block in blocks for line in block.splitlines()]


@pytest.mark.defect("H2")
def test_no_page_installs_a_name_that_is_not_published():
    """While the version is one of development there is no release: a path, a wheel or a repository is installed."""
    assert "dev" in re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), flags=re.M)[1]
    lines = [(page.name, line) for page in PAGES for line in code(page) if re.match(r"(\S+/)?pip install", line)]
    assert lines
    assert [
        (page, line) for page, line in lines if re.search(r"""install ["']?fedlora(\[|["']?\s|["']?$)""", line)
    ] == []


@pytest.mark.defect("R16")
def test_the_readme_says_how_to_get_torch_without_cuda():
    lines = [line for line in code(ROOT / "README.md") if "pip install" in line]
    cpu = [number for number, line in enumerate(lines) if "https://download.pytorch.org/whl/cpu" in line]
    fedlora = [number for number, line in enumerate(lines) if re.search(r"install (-e )?\.", line)]
    assert cpu
    assert cpu[0] < fedlora[0]


@pytest.mark.defect("D5")
@pytest.mark.parametrize("page", ["README.md", "docs/study.md"])
def test_who_is_said_to_be_ahead_is_ahead_in_every_table(page):
    """A passage that puts LoRA-A2 before the others names the method of the same setting that ends above it."""
    runs = json.loads((ROOT / "benchmarks" / "results" / "grid.json").read_text())["0.1"]["runs"]
    scores = {name: run["summary"]["global"] for name, run in runs.items() if name not in ("central", "full")}
    best = max((score["accuracy"], name) for name, score in scores.items() if score)[1]
    passages = re.split(r"\n\n|\n- ", (ROOT / page).read_text(encoding="utf-8"))
    ahead = [text for text in passages if re.search(r"LoRA-A2\b[^.]*\b(ahead of|ends highest)", text)]
    assert [text for text in ahead if best.lower() not in text.lower()] == []
    assert best == "flora"
