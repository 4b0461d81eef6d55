"""The whole net in one command: `run.py BEFORE_COMMIT [--only PATTERN] [--keep DIR]`.

Records the commit, taken from the repository into a temporary folder, and the present working tree, each in a
process of its own, and compares the two recordings. Cases and adapters are those of the present tree. Exit code 0:
equal, but for what is explained.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="what is compared with: a commit that adapter_before knows, such as 7702f80")
    parser.add_argument("--only", default="", help="regular expression: the cases whose names it is found in")
    parser.add_argument("--keep", type=Path, help="a folder for both recordings; by default they are thrown away")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        recordings = words.keep or folder
        recordings.mkdir(parents=True, exist_ok=True)
        take_out(words.commit, folder / "before")
        after = "adapter_after" if (HERE / "adapter_after.py").exists() else "adapter_before"
        sides = {"before": (folder / "before", "adapter_before"), "after": (ROOT, after)}
        for name, (checkout, adapter) in sides.items():
            started = time.perf_counter()
            record(checkout, adapter, recordings / f"{name}.json", words.only)
            print(f"{name} recorded with {adapter} in {time.perf_counter() - started:.0f} s", flush=True)
        files = [str(recordings / f"{name}.json") for name in sides]
        return subprocess.run([sys.executable, str(HERE / "compare.py"), *files], check=False).returncode


def take_out(commit: str, folder: Path) -> None:
    """The files of a commit, in a folder."""
    folder.mkdir()
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit, "src"], check=True, stdout=subprocess.PIPE)
    subprocess.run(["tar", "-x", "-C", str(folder)], check=True, input=archive.stdout)


def record(checkout: Path, adapter: str, out: Path, only: str) -> None:
    """One recording, in a process of its own."""
    line = [sys.executable, str(HERE / "record.py"), str(checkout), str(out), "--adapter", adapter]
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src")}
    subprocess.run([*line, "--only", only], check=True, env=environment)


if __name__ == "__main__":
    sys.exit(main())
