"""What newcomers could not see on the page of a run or of a comparison."""

import re
import shutil
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


@pytest.fixture
def compared(fedlora, config, tmp_path):
    """Compares methods on the small data, and returns the page's file."""

    def make(methods, *words, **sections):
        out = tmp_path / "out"
        sections["run"] = {"rounds": 1, **sections.get("run", {})}
        code, _, err = fedlora("compare", config(**sections), "--methods", methods, "--out", out, *words)
        assert (code, err) == (0, "")
        return out / "report.html"

    return make


@pytest.fixture
def page_of(fedlora, config, tmp_path):
    """Runs a method on the small data, and returns the page."""

    def make(**sections):
        code, _, err = fedlora("run", config(**sections), "--out", tmp_path / "out")
        assert (code, err) == (0, "")
        return (tmp_path / "out" / "report.html").read_text()

    return make


def header(page):
    return re.findall(r'<th scope="col">(.*?)</th>', page)


@pytest.mark.defect("R9")
def test_scores_come_first_and_what_all_rows_share_stands_above_the_table(compared):
    page = compared("fedit,ffa").read_text()
    assert header(page)[:4] == ["method", "global", "personal", "worst tenth"]
    assert not {"ranks", "scale", "seeds", "rounds"} & set(header(page))
    assert "All rows: rank 2, scale " in page
    assert "1 seed, 1 round." in page


@pytest.mark.defect("R9")
def test_ranks_stay_a_column_where_rows_differ_in_them(compared):
    page = compared("lora-a2,fedit", clients={"ranks": [1, 3]}).read_text()
    assert "ranks" in header(page)[4:]
    assert "scale" not in header(page)


@pytest.mark.defect("R9")
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_no_number_of_the_table_is_off_a_narrow_screen(compared):
    from playwright.sync_api import sync_playwright

    file = compared("fedit,ffa")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.goto(Path(file).as_uri())
        right = page.evaluate("[...document.querySelectorAll('td')].map(cell => cell.getBoundingClientRect().right)")
        whole = page.evaluate("document.documentElement.scrollWidth")
        browser.close()
    assert len(right) >= 12
    assert max(right) <= 390
    assert whole <= 390


@pytest.mark.defect("R6")
def test_curves_that_hide_one_another_are_named(compared):
    """Where all clients have one rank, these two methods are the same."""
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", compared("replicate,fedit").read_text())
    assert any("replicate and fedit coincide" in caption for caption in captions)


@pytest.mark.defect("R15")
def test_the_page_tells_chance_and_shows_the_training_loss(page_of):
    page = page_of()
    key = re.findall(r"<li>(.*?)</li>", page)
    assert any(re.search(r"chance, \d+\.\d %", entry) for entry in key)
    assert "<h3>Training loss by round</h3>" in page


@pytest.mark.defect("R15")
def test_a_loss_that_does_not_fall_is_remarked(page_of):
    page = page_of(run={"rounds": 4}, train={"lr": 1e-9})
    assert "The training loss hardly moves: fedit (" in page


@pytest.mark.defect("R15")
def test_a_single_seed_has_no_band(page_of):
    page = page_of().lower()
    assert "band:" not in page
    assert "interval" not in page


@pytest.mark.defect("R15")
def test_several_seeds_have_an_interval_that_says_its_kind(compared):
    page = compared("fedit", "--seeds", "2").read_text()
    assert "Shaded: 95 % t interval of the mean over seeds." in page
    assert re.search(r'class="score">\d+\.\d<small>\d+\.\d to \d+\.\d</small>', page)
