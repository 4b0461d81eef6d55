"""Runs the tests of a mend against the code from before it: what a mend claims must have been broken.

    python tests/against.py COMMIT [DEFECT ...]
    python tests/against.py --table > tests/defects/TABLE.md

The tests in tests/defects name their defect by a marker and use only what COMMIT has too (the command line, the public
Python names, the fixtures of tests/conftest.py); they are laid over a checkout of COMMIT as they are. Tests from before names
of modules changed cannot be imported beside old code: for these OLDER names the commit that came with the mend, whose tests
are taken. Ends with 0 if every test turned red, and with 1 otherwise.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
TRUST = "tests/deploy/test_trust.py::"
TEXT = f"{TRUST}test_no_text_of_a_site_stops_the_run_or_spoils_its_records"
PAGE, LAST = "tests/report/test_any_text.py::", "tests/app/test_page_comes_last.py::"
INPUTS = "tests/app/test_other_inputs.py::"
OLDER = {
    "S3": (
        "596e5b0",
        [
            f"{TRUST}test_a_node_has_one_name",
            f"{TRUST}test_a_second_hello_does_not_change_the_number_of_examples",
            f"{TRUST}test_a_site_cannot_count_for_more_than_was_agreed",
            f"{TRUST}test_another_node_cannot_take_a_name_when_the_run_goes_on",
        ],
    ),
    "S4": (
        "596e5b0",
        [
            f"{TEXT}[reason-half a surrogate pair]",
            f"{TEXT}[reason-a control character]",
            f"{TEXT}[kind-half a surrogate pair]",
            f"{TEXT}[kind-a control character]",
            f"{TEXT}[kind-too long]",
            f"{TRUST}test_notes_with_such_text_are_refused",
        ],
    ),
    "S5": (
        "a42e644",
        [
            f"{PAGE}test_any_text_gives_a_page_whose_parts_parse",
            f"{PAGE}test_names_are_drawn_as_they_are_written",
            f"{PAGE}test_choices_that_make_no_sense_are_no_figure",
            f"{LAST}test_strange_labels_and_owners_end_in_a_page",
            f"{LAST}test_a_run_whose_page_fails_has_not_failed",
            f"{LAST}test_a_comparison_goes_on_after_a_page_that_fails",
            "tests/deploy/test_finish_before_page.py",
        ],
    ),
    "S6": (
        "1537c65",
        [
            f"{INPUTS}test_resume_refuses_other_inputs_and_goes_on_with_the_old_ones",
            f"{INPUTS}test_compare_refuses_a_finished_run_of_other_inputs",
            f"{INPUTS}test_compare_does_not_put_few_examples_beside_many",
            f"{INPUTS}test_another_version_is_refused_by_name",
        ],
    ),
}
"""Defect -> the commit that has its tests, and which they are."""


def marked() -> dict[str, list[str]]:
    """Defect -> the tests in tests/defects that carry its marker."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests" / "defects").glob("test_*.py")):
        above: list[str] = []
        for line in path.read_text(encoding="utf-8").splitlines():
            if marker := re.match(r'@pytest\.mark\.defect\("(\w+)"\)', line):
                above.append(marker[1])
            elif test := re.match(r"def (test_\w+)", line):
                for defect in above:
                    found.setdefault(defect, []).append(f"tests/defects/{path.name}::{test[1]}")
                above = []
    return dict(sorted(found.items(), key=lambda item: (item[0][0], int(item[0][1:]))))


def checkout(commit: str, folder: Path, *paths: str) -> None:
    """Write the files of a commit into a folder."""
    archive = subprocess.run(["git", "archive", commit, *paths], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    subprocess.run(["tar", "-x"], cwd=folder, input=archive, check=True)


def outcomes(commit: str, tests_of: str | None, tests: list[str]) -> dict[str, tuple[str, str]]:
    """Test -> what became of it (red, passed, error or skipped) and the first line of why."""
    folder = Path(tempfile.mkdtemp(prefix="against-"))
    try:
        checkout(commit, folder)
        shutil.rmtree(folder / "tests")
        if tests_of:
            checkout(tests_of, folder, "tests")
        else:
            shutil.copytree(ROOT / "tests" / "defects", folder / "tests" / "defects")
            shutil.copy(ROOT / "tests" / "conftest.py", folder / "tests" / "conftest.py")
            shutil.copy(ROOT / "pyproject.toml", folder / "pyproject.toml")
        env = {**os.environ, "PYTHONPATH": str(folder / "src")}
        line = [sys.executable, "-m", "pytest", "-m", "", "-p", "no:cacheprovider", "--junitxml", "result.xml", *tests]
        done = subprocess.run(line, cwd=folder, env=env, capture_output=True, text=True, check=False)
        if not (folder / "result.xml").exists():
            sys.exit(done.stdout + done.stderr)
        found = {}
        for case in ElementTree.parse(folder / "result.xml").iter("testcase"):
            bad = [part for part in case if part.tag in ("failure", "error", "skipped")]
            message = (bad[0].get("message") or "").splitlines()[:1] if bad else []
            kind = bad[0].tag.replace("failure", "red") if bad else "passed"
            found[f"{case.get('classname')}::{case.get('name')}"] = (kind, "".join(message))
        return found
    finally:
        shutil.rmtree(folder)


def came_with(text: str) -> str:
    """The first commit that has a text in its tests."""
    line = ["git", "log", "--reverse", "--format=%h", f"-S{text}", "--", "tests"]
    found = subprocess.run(line, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    return found[0] if found else "-"


def table() -> str:
    """Every entry with its tests, the commit that brought them, and whether they can run on the code from before."""
    lines = ["# Entries, tests, commits", "", "| entry | tests | came with | on 7702f80 |", "|---|---|---|---|"]
    newer = marked()
    elsewhere = tomllib.loads((ROOT / "tests" / "defects" / "elsewhere.toml").read_text(encoding="utf-8"))
    for entry in sorted({*OLDER, *newer, *elsewhere}, key=lambda name: ("DRHS".index(name[0]), int(name[1:]))):
        if entry in newer:
            tests, commit = newer[entry], came_with(f'defect("{entry}")')
            before = "run by `against.py`"
        elif entry in OLDER:
            commit, tests = OLDER[entry]
            before = "run by `against.py`, as they came"
        else:
            tests, before = elsewhere[entry]["tests"], elsewhere[entry]["before"]
            commit = came_with(tests[0].rpartition("::")[2])
        lines.append(f"| {entry} | {'; '.join(f'`{test}`' for test in tests)} | {commit} | {before} |")
    return "\n".join(lines)


def main() -> None:
    """Run what was asked for."""
    if sys.argv[1:] == ["--table"]:
        print(table())
        return
    newer = marked()
    asked = sys.argv[2:] or [*OLDER, *newer]
    if len(sys.argv) < 2 or not set(asked) <= OLDER.keys() | newer.keys():
        sys.exit(f"{__doc__}\nDefects: {', '.join([*OLDER, *newer])}")
    commit, count, red = sys.argv[1], 0, 0
    for defect in dict.fromkeys(asked):
        sets = ([OLDER[defect]] if defect in OLDER else []) + ([(None, newer[defect])] if defect in newer else [])
        for tests_of, tests in sets:
            for test, (kind, message) in outcomes(commit, tests_of, tests).items():
                print(f"{defect} {kind:7} {test}\n           {message[:150]}", flush=True)
                count, red = count + 1, red + (kind == "red")
    print(f"{red} of {count} tests are red at {commit}")
    sys.exit(0 if count and red == count else 1)


if __name__ == "__main__":
    main()
