"""The documentation site builds without a warning, and loads nothing from elsewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow
pytest.importorskip("mkdocstrings", reason="pip install -e '.[docs]'")


def test_the_site_builds_without_a_warning(tmp_path):
    line = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    pages = {str(page.relative_to(tmp_path)) for page in tmp_path.rglob("*.html")}
    assert {"index.html", "quickstart.html", "api/core.html", "methods/fedit.html", "contributing.html"} <= pages
    for page in pages:
        text = (tmp_path / page).read_text(encoding="utf-8")
        assert not re.findall(
            r"<(?:script|img|link)[^>]*(?:src|href)=\"https?://[^\"]*\.(?:js|css|png|svg|woff2?)", text
        )
    assert "Method" in (tmp_path / "api" / "methods.html").read_text(encoding="utf-8")
    assert (tmp_path / "files" / "examples" / "new_method.py").is_file()


def test_a_link_that_leads_nowhere_stops_the_build(tmp_path):
    """The same build with one page more, whose link is wrong."""
    (tmp_path / "docs").mkdir()
    for part in (
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CHANGELOG.md",
        "examples",
        "benchmarks",
        "tests",
        "src",
    ):
        (tmp_path / part).symlink_to(ROOT / part)
    for part in (ROOT / "docs").iterdir():
        (tmp_path / "docs" / part.name).symlink_to(part)
    (tmp_path / "mkdocs.yml").write_text((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), encoding="utf-8")
    page = tmp_path / "docs" / "faults.md"
    text = page.read_text(encoding="utf-8")
    page.unlink()
    page.write_text(f"{text}\n[nowhere](nowhere.md)\n", encoding="utf-8")
    line = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "nowhere.md" in done.stdout + done.stderr
