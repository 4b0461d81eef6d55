# SPDX-License-Identifier: Apache-2.0
"""What sites call a run: each has a folder of that name, so it is no path."""

import re
import secrets

from fedlora.errors import PayloadError

_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,80}")


def new_run_name(name: str) -> str:
    """A name that no other run has.

    Args:
        name: what the config calls the run.
    """
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:60]
    return f"{plain or 'run'}-{secrets.token_hex(4)}"


def require_run_name(name: str) -> None:
    """See that a run's name, which a server chose, is that of a folder and nothing else.

    Raises:
        PayloadError: it is not.
    """
    if not _PLAIN.fullmatch(name):
        raise PayloadError("the server calls the run by something else than 1 to 80 letters, digits, - and _")
