"""The page, opened in a real browser: nothing leaves it, nothing complains, everything is there."""

import json
import re
import shutil
from pathlib import Path

import pytest

from fedlora.errors import RunFolderError
from fedlora.report.page import write_report
from fedlora.report.read import group, read_runs
from fedlora.report.tables import Figure, cell, columns, count, rows, size
from fedlora.report.task import read_task

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-sync",
]


PERPLEXITY = {
    "name": "language",
    "metrics": [
        {"name": "perplexity", "higher_is_better": False, "format": "plain", "title": "perplexity on held-out text"},
        {"name": "bleu", "higher_is_better": True, "format": "percent", "title": "BLEU, %"},
    ],
    "chance": None,
}


def write_run(folder, method, seed, scores, rank=2, notes=False, task=None):
    """A run folder as `fedlora run` leaves it, with scores of my choosing; without a task, as before tasks."""
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(
        f'[run]\nseed = {seed}\nname = "x"\ndevice = "cpu"\n[data]\nsource = "generated"\n[split]\nkind = "iid"\nalpha = 0.5\n'
        f'[adapter]\nrank = {rank}\nhead = "shared"\n[method]\nname = "{method}"\n'
    )
    (folder / "environment.json").write_text(
        json.dumps(
            {
                "base": "b",
                "scale": 8.0,
                "kind": "lora",
                "platform": "p",
                "python": "3",
                "threads": 1,
                "packages": {"torch": "2"},
                "modules": ["enc.layer.0.query", "enc.layer.1.out"],
                **({"task": task} if task else {}),
            }
        )
    )
    clients = {f"c{k}": {"labels": [3 + k, 4], "validation": 0, "test": 5} for k in range(3)}
    split = {"labels": ["no", "<b>yes</b>"], "clients": clients, "left_out_clients": ["c9"], "unused_examples": 0}
    (folder / "split.json").write_text(json.dumps(split))
    lines, members, headline = [], [], task["metrics"][0]["name"] if task else "accuracy"
    for number, score in enumerate(scores, start=1):
        own = {"mean": score, "worst_tenth": score / 2}
        lines.append(
            {
                "round": number,
                "loss": 2.0 - score,
                "global": None if method == "fedsa" else {headline: score},
                "personal": own,
                "bytes_up": 1000 * rank,
                "bytes_down": 2000,
                "parameters_up": 100,
            }
        )
        for k in range(3):
            told = {
                "side": "output" if number % 2 else "input",
                "slots": {"enc.layer.0.query": [0, k], "enc.layer.1.out": [1]},
            }
            members.append(
                {
                    "round": number,
                    "client": f"c{k}",
                    "examples": 7,
                    "rank": rank,
                    "score": score,
                    "score_examples": 5,
                    "status": "accepted",
                    "notes": told if notes else {},
                }
            )
    for name, table in (("rounds.jsonl", lines), ("clients.jsonl", members)):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in table))
    (folder / "summary.json").write_text("{}")


@pytest.fixture
def runs(tmp_path):
    for seed, shift in ((0, 0.0), (1, 0.1)):
        write_run(tmp_path / f"a{seed}", "lora-a2", seed, [0.2, 0.4 + shift], notes=True)
        write_run(tmp_path / f"b{seed}", "fedsa", seed, [0.3, 0.5])
    return tmp_path


def test_rows_are_means_over_seeds(runs):
    table = {row.label: row for row in rows(group(read_runs([runs])))}
    assert table["lora-a2"].whole["accuracy"].mean == pytest.approx(0.45)
    assert table["lora-a2"].whole["accuracy"].spread == pytest.approx(0.1 / 2**0.5)
    assert table["fedsa"].whole == {}
    assert table["fedsa"].personal == Figure(0.5, 0.0, 2)
    assert table["lora-a2"].bytes_up == 4000
    assert table["lora-a2"].seeds == 2


def test_runs_of_one_method_are_told_apart_by_what_differs(tmp_path):
    write_run(tmp_path / "one", "fedit", 0, [0.2], rank=2)
    write_run(tmp_path / "two", "fedit", 0, [0.2], rank=4)
    assert [run.label for run in read_runs([tmp_path])] == ["fedit (rank 2)", "fedit (rank 4)"]


def test_numbers_in_words():
    assert [size(n) for n in (0, 999, 1234, 5_600_000, 7e12)] == ["0 B", "999 B", "1.23 kB", "5.6 MB", "7 TB"]
    assert [count(n) for n in (5, 829_440)] == ["5", "829k"]
    share, loss = read_task({}).metrics
    figures = (None, Figure(0.5, None), Figure(0.123, 0.01))
    assert [cell(figure, share) for figure in figures] == ["-", "50.0", "12.3 ± 1.0"]
    assert [cell(figure, loss) for figure in figures] == ["-", "0.500", "0.123 ± 0.010"]


def test_tables_and_pages_take_their_words_from_the_task(tmp_path):
    """Nothing of a classifier is left on the page of a language model."""
    write_run(tmp_path / "one", "fedit", 0, [30.0, 12.5], task=PERPLEXITY)
    page = write_report([tmp_path / "one"], tmp_path / "page").read_text()
    (row,) = rows(group(read_runs([tmp_path / "one"])))
    assert row.whole["perplexity"].mean == 12.5
    assert columns(row.task)[1:6] == ["global", "personal", "worst tenth", "global bleu", "personal bleu"]
    for words in ("Global perplexity by round", "perplexity on held-out text", "12.500"):
        assert words in page
    assert "bleu" not in page  # no run tells it
    assert "| global bleu |" in (tmp_path / "page" / "table.md").read_text()
    assert "accuracy" not in page.lower()
    table = (tmp_path / "page" / "table.csv").read_text().splitlines()
    assert table[0].split(",")[5:7] == ["global_mean", "global_spread"]
    assert table[1].split(",")[5] == "12.5"


def test_the_level_of_chance_is_drawn_where_the_task_names_one(tmp_path):
    known = {"metrics": [{"name": "hits", "higher_is_better": True, "format": "percent", "title": "hits, %"}]}
    write_run(tmp_path / "one", "fedit", 0, [0.5], task={**known, "chance": 0.25})
    assert "chance, 25.0 %</li>" in write_report([tmp_path / "one"], tmp_path / "page").read_text()


def test_runs_of_different_tasks_are_not_compared(tmp_path):
    write_run(tmp_path / "one", "fedit", 0, [0.2])
    write_run(tmp_path / "two", "fedit", 0, [9.0], task=PERPLEXITY)
    with pytest.raises(RunFolderError, match=r"measures perplexity, but .* measures accuracy: report runs of one task"):
        read_runs([tmp_path])


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(RunFolderError, match="holds no run"):
        read_runs([tmp_path])
    write_run(tmp_path / "a", "fedit", 0, [0.2])
    (tmp_path / "a" / "split.json").unlink()
    with pytest.raises(RunFolderError, match="cannot be read"):
        read_runs([tmp_path])


def test_equal_runs_make_equal_pages(runs, tmp_path):
    one = write_report([runs], tmp_path / "one").read_bytes()
    assert write_report([runs], tmp_path / "two").read_bytes() == one


def test_an_unfinished_run_is_said(runs):
    (runs / "a1" / "summary.json").unlink()
    page = write_report([runs], runs / "page").read_text()
    assert "Not finished: lora-a2, seed 1." in page
    assert "lora-a2 (1 unfinished)" in page
    assert "The data are generated" in page
    assert "Left out, without any training example: c9." in page


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(runs, width, scheme):
    from playwright.sync_api import sync_playwright

    page_file = write_report([runs], runs / "page")
    complaints, requests = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(Path(page_file).as_uri())
        titles = page.locator("figure h3").all_inner_texts()
        drawn = page.locator("figure > svg").count()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        ink, paper = (page.evaluate(f"getComputedStyle(document.body).{own}") for own in ("color", "backgroundColor"))
        text = page.evaluate("getComputedStyle(document.querySelector('figure svg text')).fill")
        cell = page.locator("figure:has(h3:text('Who owns which labels')) [data-tip]").first
        cell.scroll_into_view_if_needed()
        cell.hover()
        shown = page.locator("#tip").inner_text()
        page.emulate_media(media="print")
        assert page.locator("figure").first.is_visible()
        browser.close()
    assert complaints == []
    assert requests == [Path(page_file).as_uri()]
    expected = [
        "Global accuracy by round",
        "Personal accuracy by round",
        "Global accuracy by bytes sent",
        "Personal accuracy by bytes sent",
        "Training loss by round",
        "Who owns which labels",
        "Every client's own score",
        "Bytes by direction",
        *(
            f"lora-a2: {what}"
            for what in ("chosen slots of B", "slots in common, B", "chosen slots of A", "slots in common, A")
        ),
    ]
    assert titles == expected
    assert drawn == len(expected)
    assert shown == "client c0, no: 3"
    assert text == ink != paper


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_marks_that_lie_on_one_another_all_tell_whose_they_are(tmp_path):
    """A dot names its client, and a point that another curve's point covers is told, too."""
    from playwright.sync_api import sync_playwright

    write_run(tmp_path / "a", "fedit", 0, [0.2, 0.4])
    write_run(tmp_path / "b", "ffa", 0, [0.2, 0.6])
    page_file = write_report([tmp_path], tmp_path / "page")
    shown = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(Path(page_file).as_uri())
        for title in ("Personal accuracy by round", "Every client's own score"):
            mark = page.locator(f'figure:has(h3:text("{title}")) [data-tip]').last
            mark.scroll_into_view_if_needed()
            mark.hover(force=True)
            shown[title] = page.locator("#tip").inner_text()
        browser.close()
    # markers are drawn from the last round to the first
    assert set(shown["Personal accuracy by round"].splitlines()) == {"fedit, round 1: 20.0 %", "ffa, round 1: 20.0 %"}
    dot = r"client c\d: 60.0 % of 5 test examples; ffa, seed 0, 7 training examples, rank 2"
    assert re.fullmatch(dot, shown["Every client's own score"])
