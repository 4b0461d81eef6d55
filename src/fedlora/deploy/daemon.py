# SPDX-License-Identifier: Apache-2.0
"""The process that stays at a site: it loads base and data once, and answers what comes through its socket."""

import os
import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import FrameType

from fedlora.deploy.site import Site
from fedlora.deploy.site_config import build_site, read_site, site_client
from fedlora.deploy.sockets import new_key, open_socket, serve_bytes
from fedlora.federation.files import hold


def run_site(path: Path, say: Callable[[str], object]) -> None:
    """Be a site until the process is stopped.

    Args:
        path: the SITE.toml.
        say: is told when the site can be asked.

    Raises:
        UserError: with one sentence about what does not fit.
    """
    signal.signal(signal.SIGTERM, _stop)
    own = read_site(path)
    folder = Path(own.site.folder)
    with hold(folder) as let_go:
        folder.chmod(0o700)
        key = new_key(Path(own.site.key or ""))
        os.chdir(Path(own.site.shared).parent)  # paths in the shared config are seen from its folder
        simulation = build_site(own)
        client = site_client(simulation, own)
        site = Site(simulation, client, folder)
        address = own.site.address or ""
        with closing(open_socket(address)) as listener:
            say(f"site {client.id} is ready at {address}: {client.examples} examples, rank {client.rank}")
            serve_bytes(listener, key, site.answer)
        let_go()


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
