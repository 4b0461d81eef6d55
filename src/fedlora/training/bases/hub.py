# SPDX-License-Identifier: Apache-2.0
"""Whether the Hugging Face hub can be reached: asked once, since its libraries ask for half a minute."""

import os
import socket
from urllib.parse import urlsplit

_SECONDS = 5.0
_PROXIES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")


def is_reachable() -> bool:
    """Whether a connection to the hub can be opened.

    Behind a proxy that cannot be told, and the answer is yes; where HF_HUB_OFFLINE is set it is no.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return False
    if any(os.environ.get(name) for name in _PROXIES):
        return True
    address = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), _SECONDS).close()
    except OSError:
        return False
    return True
