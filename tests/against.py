"""Runs tests of this checkout against the code of another commit: what a mend claims must have been broken before.

    python tests/against.py COMMIT [TEST ...]

Makes a checkout of the commit in a temporary folder, lays this checkout's `tests` over it, and runs the tests there with
that commit's code. Ends with 0 if every named test turned red, and with 1 otherwise. Which tests belong to which defect
stands in `DEFECTS`; without tests all of those are run.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
DEFECTS = {
    "S3": [
        "tests/deploy/test_trust.py::test_a_node_has_one_name",
        "tests/deploy/test_trust.py::test_a_second_hello_does_not_change_the_number_of_examples",
        "tests/deploy/test_trust.py::test_a_site_cannot_count_for_more_than_was_agreed",
        "tests/deploy/test_trust.py::test_another_node_cannot_take_a_name_when_the_run_goes_on",
    ],
    "S4": [
        "tests/deploy/test_trust.py::test_no_text_of_a_site_stops_the_run_or_spoils_its_records[reason-half a surrogate pair]",
        "tests/deploy/test_trust.py::test_no_text_of_a_site_stops_the_run_or_spoils_its_records[reason-a control character]",
        "tests/deploy/test_trust.py::test_no_text_of_a_site_stops_the_run_or_spoils_its_records[kind-half a surrogate pair]",
        "tests/deploy/test_trust.py::test_no_text_of_a_site_stops_the_run_or_spoils_its_records[kind-a control character]",
        "tests/deploy/test_trust.py::test_no_text_of_a_site_stops_the_run_or_spoils_its_records[kind-too long]",
        "tests/deploy/test_trust.py::test_notes_with_such_text_are_refused",
    ],
}


def outcomes(commit, tests):
    """Test -> what became of it, under the code of a commit."""
    folder = Path(tempfile.mkdtemp(prefix="against-"))
    try:
        archive = subprocess.run(["git", "archive", commit], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
        subprocess.run(["tar", "-x"], cwd=folder, input=archive, check=True)
        shutil.rmtree(folder / "tests")
        shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        env = {**os.environ, "PYTHONPATH": str(folder / "src")}
        line = [sys.executable, "-m", "pytest", "-m", "", "-p", "no:cacheprovider", "--junitxml", "result.xml", *tests]
        done = subprocess.run(line, cwd=folder, env=env, capture_output=True, text=True, check=False)
        if not (folder / "result.xml").exists():
            sys.exit(done.stdout + done.stderr)
        found = {}
        for case in ElementTree.parse(folder / "result.xml").iter("testcase"):
            bad = [part for part in case if part.tag in ("failure", "error", "skipped")]
            first = (bad[0].get("message") or "").splitlines()[:1] if bad else []
            kind = bad[0].tag if bad else "passed"
            found[f"{case.get('classname')}::{case.get('name')}"] = (kind, first[0] if first else "")
        return found
    finally:
        shutil.rmtree(folder)


def main():
    """Run what was asked for."""
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    tests = sys.argv[2:] or [test for group in DEFECTS.values() for test in group]
    found = outcomes(sys.argv[1], tests)
    for test, (kind, message) in found.items():
        print(f"{'red' if kind == 'failure' else kind:8} {test}\n         {message[:150]}")
    red = sum(kind == "failure" for kind, _ in found.values())
    print(f"{red} of {len(found)} tests are red at {sys.argv[1]}")
    sys.exit(0 if found and red == len(found) else 1)


if __name__ == "__main__":
    main()
