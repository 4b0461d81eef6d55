# SPDX-License-Identifier: Apache-2.0
"""The process of a site: it loads base and data once, and answers until it is stopped."""

import os
import signal
import sys
from contextlib import closing
from pathlib import Path
from types import FrameType

from fedlora.deploy.config import build_site, read_site, site_client
from fedlora.deploy.log import say
from fedlora.deploy.site import Site
from fedlora.deploy.sockets import new_key, open_socket, serve_bytes
from fedlora.federation.files import hold


class _StoppedError(BaseException):
    """The process was asked to stop."""


def run_site(path: Path) -> None:
    """Be a site until the process is stopped. SIGTERM ends it with exit code 0, also in the midst of training.

    Args:
        path: the SITE.toml.

    Raises:
        UserError: with one sentence about what does not fit.
    """
    signal.signal(signal.SIGTERM, _stop)
    try:
        _answer(path)
    except _StoppedError:
        say("stopped: what this site keeps is on its disk")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # the thread that trains cannot be stopped, and what it does is not needed: a kill loses nothing


def _answer(path: Path) -> None:
    given = read_site(path)
    folder = Path(given.site.folder)
    with hold(folder, "give this site a site.folder of its own") as let_go:
        folder.chmod(0o700)
        key = new_key(Path(given.site.key or ""))
        simulation = build_site(given)
        client = site_client(simulation, given)
        site = Site(simulation, client, folder)
        address = given.site.address or ""
        with closing(open_socket(address)) as listener:
            say(f"site {client.id} is ready at {address}: {client.examples} examples, rank {client.rank}")
            serve_bytes(listener, key, site.answer)
        let_go()


def _stop(number: int, frame: FrameType | None) -> None:
    raise _StoppedError
