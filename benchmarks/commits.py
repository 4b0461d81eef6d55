# SPDX-License-Identifier: Apache-2.0
"""The code of an earlier commit, to be timed beside today's."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def extract(commit, folder):
    """Put a commit's files into a folder, which is made if it is not there."""
    folder.mkdir(exist_ok=True)
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    subprocess.run(["tar", "-x"], cwd=folder, input=archive, check=True)
    return folder
