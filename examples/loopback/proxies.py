# SPDX-License-Identifier: Apache-2.0
"""The commands of a proxy that stands before a loopback SuperLink and passes the Fleet API alone."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedlora.deploy.app_files import APP

NGINX_CONFIG = APP / "nginx.conf"
"""The configuration that docs/deploy.md shows."""


@dataclass(frozen=True)
class ProxyEnds:
    """What a proxy connects: addresses are `host:port`, `keys` holds ca.crt, server.crt and server.key."""

    listen: str
    superlink: str
    keys: Path


def forwarder(ends: ProxyEnds) -> Sequence[str]:
    """The forwarder that comes with us."""
    files = [str(ends.keys / name) for name in ("server.crt", "server.key", "ca.crt")]
    return [sys.executable, str(Path(__file__).with_name("forwarder.py")), ends.listen, ends.superlink, *files]


def nginx(ends: ProxyEnds) -> Sequence[str]:
    """nginx with the guide's configuration, filled in and written beside the keys."""
    filled = NGINX_CONFIG.read_text(encoding="utf-8")
    _, begin, directives = filled.partition("\ndaemon off;")  # the comment above names the placeholders
    for placeholder, value in (("LISTEN", ends.listen), ("SUPERLINK", ends.superlink), ("FOLDER", str(ends.keys))):
        directives = directives.replace(placeholder, value)
    config = ends.keys / "nginx.conf"
    config.write_text(begin + directives, encoding="utf-8")
    return ["nginx", "-e", "stderr", "-c", str(config)]
