# SPDX-License-Identifier: Apache-2.0
"""A run whose page can be watched: written after every round, and reloading itself while the run is under way."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from fedlora.app.run.pages import write_page
from fedlora.app.run.run import Run
from fedlora.errors import FedloraError
from fedlora.federation.record import RoundRecord
from fedlora.report.page import HTML, write_report, write_waiting

_RELOAD = 5
"""Seconds after which an open page loads itself anew."""


def watched(run: Run, folder: Path, say: Callable[[str], None]) -> Iterator[RoundRecord]:
    """The run's rounds. Its page is there from the start, and when the run stops, it no longer reloads itself.

    The run waits while its page is written; what that took is told at the end. A page that cannot be written is told
    once and stops nothing.

    Args:
        run: not yet begun.
        folder: the run's.
        say: tells a line to the person who watches.
    """
    page = folder / HTML
    say(f"the page, written after every round: {page.resolve()}")
    pages = _Pages(say)
    started = time.monotonic()
    if run.server.round:
        pages.write(lambda: write_report([folder], folder, _RELOAD))
    else:
        pages.write(lambda: write_waiting(folder, f"fedlora: {run.experiment.config.method.name}", _RELOAD))
    try:
        for record in run.rounds():
            pages.write(lambda: write_report([folder], folder, _RELOAD))
            yield record
    finally:  # after Ctrl-C and after failures too: nothing is under way any more
        if run.server.round:
            write_page([folder], folder)
        else:
            with suppress(OSError):
                page.unlink()
    took = time.monotonic() - started
    say(f"writing the page after every round took {pages.seconds:.1f} of {took:.1f} s")


class _Pages:
    """Writes pages; counts the seconds, and tells the first failure alone."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.seconds = 0.0
        self._say, self._failed = say, False

    def write(self, one: Callable[[], Path]) -> None:
        """Write one page."""
        started = time.monotonic()
        try:
            one()
        except FedloraError as error:
            if not self._failed:
                self._say(f"{str(error).removesuffix('.')}; the run goes on.")
            self._failed = True
        self.seconds += time.monotonic() - started
