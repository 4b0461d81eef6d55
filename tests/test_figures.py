"""Whatever README and docs state in figures was measured, and stands in a block that is made from the results.

A figure is a share, a ratio, a number of bytes, a time, a rate, or a number with a decimal point. What a page says outside blocks,
code and links has none, but for definitions: names with numbers in them, and limits that the software keeps.
"""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import blocks
import findings
import generate

ROOT = Path(__file__).parents[1]

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")] + sorted(
    (ROOT / "docs").rglob("*.md")
)
WORDS = r"one|two|three|four|five|six|seven|eight|nine|ten|twelve|twenty|fifty|a\ hundred|several|a\ few|some"
UNITS = r"points?|times|bytes|milliseconds?|seconds?|minutes?|hours?|days?"
FIGURE = re.compile(
    rf"""(?<![\w.]) (?:
      \d[\d.,]* \s? (?: % | per\ cent | -?fold\b | x\b | (?:{UNITS})\b | [kMGT]i?B\b | B\b | [mnuµ]?s\b | [kMGT]?FLOP | examples\b\ (?:a|per)\b )
    | (?:{WORDS})\ (?: per\ cent | points? | times | (?:milli)?seconds? | minutes? | hours? ) \b
    | twice\ as\b | half\ of\b
    | \d+\.\d+ (?![\w.])
    | \d+ \ against \ \d+
    )""",
    flags=re.X | re.I,
)
DEFINITIONS = (
    r"Dirichlet\([\d.]+\)",
    r"arXiv \d{4}\.\d{5}",
    r"\bnumber, (?:at least|above|at most|below) [\d.]+(?: and (?:at most|below) [\d.]+)?",
    r"(?:Python|Flower|nginx|TLS|torch|transformers|peft) \d+(?:\.\d+)*(?: to \d+(?:\.\d+)*)?",
)
"""Names with numbers in them, and the ranges of fields."""
LIMITS = {
    "docs/deploy.md": (
        "after ten seconds",
        "every ten seconds",
        "five times the median answer",
        "at least 30 seconds",
        "256 MiB",
        "365 days",
    ),
    "docs/privacy.md": ("256 MiB",),
    "docs/gpu.md": ("within 8 minutes",),
    "docs/concepts.md": ("95 % interval",),
    "docs/studies.md": ("95 % interval", "is below 5 %", "10, 50, 90 %"),
    "docs/tune.md": ("95 % interval",),
    "docs/cli.md": ("such as 20MB",),
    "docs/speed.md": ("4 FLOP a frozen weight and token",),
    "docs/config.md": ("five times the median answer", "0.1 leaves most clients a few labels", "a share (0.1)"),
}
"""Page -> what it says of limits that the software keeps, of values of a key, and of how something is counted. Nothing measured belongs here."""


def prose(text):
    """A page without blocks, code, links and definitions; line numbers stay."""
    text = blocks.without_blocks(text)
    text = re.sub(r"```.*?```", lambda found: "\n" * found[0].count("\n"), text, flags=re.S)
    text = re.sub(r"`[^`\n]*`|\]\([^)]*\)", " ", text)
    return re.sub("|".join(DEFINITIONS), " ", text)


def figures(text, limits=()):
    """Line number and text of every figure in a page's prose."""
    bare = prose(text)
    for limit in limits:
        assert limit in bare, f"{limit!r} is allowed, but does not stand there any more"
        bare = bare.replace(limit, " ")
    return [(bare[: found.start()].count("\n") + 1, found[0]) for found in FIGURE.finditer(bare)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_figures_stand_in_blocks_that_are_made_from_results(page):
    limits = LIMITS.get(str(page.relative_to(ROOT)), ())
    assert figures(page.read_text(encoding="utf-8"), limits) == []


@pytest.mark.parametrize(
    "sentence",
    [
        "It has 37 % after twelve rounds.",
        "It is 2.3 times as fast.",
        "It is three times as fast.",
        "It takes ten seconds.",
        "It takes 4.1 ms a step.",
        "Everyone sends 55 MB.",
        "That is 4 points more.",
        "FedSA is ahead, 69.4 in the table.",
        "FedSA has 26 against 32.",
        "It runs at 40,000 examples a second.",
        "It costs twice as much.",
        "A 3x win.",
    ],
)
def test_a_figure_in_prose_is_found(sentence):
    assert len(figures(f"# Page\n\n{sentence}\n")) >= 1
    assert figures(f"# Page\n\n{blocks.block('made', sentence)}\n") == []


@pytest.mark.parametrize(
    "sentence",
    [
        "Batch 16, rank 8, ten clients, twelve rounds, 2,000 examples, Dirichlet(0.1).",
        "Koo et al., arXiv 2410.22815 (ACL 2025), algorithms 1 and 2.",
        "Python 3.11 to 3.13, Flower 1.41, TLS 1.3, exit code 2, `train.lr = 0.005`.",
    ],
)
def test_a_definition_is_no_figure(sentence):
    assert figures(sentence) == []


@pytest.mark.parametrize("file", sorted((ROOT / "docs").glob("*.py")), ids=lambda file: file.name)
def test_what_makes_blocks_reads_figures_and_does_not_write_them(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
    texts = [
        n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in told
    ]
    sentences = [text for text in texts if " " in text.value]  # the others are keys and colours
    assert [(text.lineno, figures(text.value)) for text in sentences if figures(text.value)] == []


PLACES = [(page, name) for page, makers in generate.BLOCKS.items() for name in makers]


@pytest.mark.parametrize(("page", "name"), PLACES, ids=lambda part: str(part).replace("/", "-"))
def test_one_changed_digit_in_a_block_is_seen(page, name):
    text = (ROOT / page).read_text(encoding="utf-8")
    contents = blocks.blocks_of(text)[name]
    digit = re.search(r"\d|\w", contents)
    other = "7" if digit[0] != "7" else "8"
    changed = contents[: digit.start()] + other + contents[digit.end() :]
    assert blocks.blocks_of(blocks.filled(text, generate.BLOCKS[page]))[name] == contents
    assert blocks.blocks_of(blocks.filled(text.replace(contents, changed), generate.BLOCKS[page]))[name] != changed


def test_the_check_turns_red_when_a_digit_of_a_block_is_changed(tmp_path):
    for part in ("docs", "benchmarks/results", "tests/training"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "README.md", tmp_path)
    page = tmp_path / "docs" / "grid.md"
    text = page.read_text(encoding="utf-8")
    assert text.count("37.2") > 1
    page.write_text(text.replace("37.2", "37.3", 1), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "out of date: docs/grid.md\n"), done.stderr


def test_a_sentence_that_the_results_do_not_bear_out_is_not_written(monkeypatch):
    """FLoRA and LoRA-A2 change places in the results: the sentence that ranks them must not be made."""
    found = findings.measured("grid")
    runs = found["0.1"]["runs"]
    runs["flora"], runs["lora-a2"] = runs["lora-a2"], runs["flora"]
    monkeypatch.setattr(findings, "measured", lambda name: found if name == "grid" else generate.results.measured(name))
    with pytest.raises(blocks.UnfoundedError, match="FLoRA"):
        findings.grid_findings()
