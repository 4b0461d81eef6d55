# SPDX-License-Identifier: Apache-2.0
"""The page at the end of a run or of a comparison: whatever happens to it, the run itself is complete."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from fedlora.errors import FedloraError
from fedlora.report.page import HTML, write_report


def write_page(runs: Sequence[Path], folder: Path) -> Path | None:
    """Write the page of finished runs; where that fails, say so in a sentence on stderr.

    Args:
        runs: their folders.
        folder: where the page goes; `fedlora report` of this folder makes it again.

    Returns:
        The page; None if there is none.
    """
    try:
        return write_report(runs, folder)
    except FedloraError as error:
        told, again = str(error).removesuffix("."), f"fedlora report {shlex.quote(str(folder))}"
        sentence = f"fedlora: {told}; the run itself is complete, and `{again}` makes the page again."
        print(sentence, file=sys.stderr, flush=True)
        return None


def has_page(folder: Path) -> bool:
    """Whether a run folder has its page: a kill after the summary leaves it without."""
    return (folder / HTML).is_file()
