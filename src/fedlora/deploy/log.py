# SPDX-License-Identifier: Apache-2.0
"""What processes that run for days tell: lines with the time, local and with its distance from UTC."""

import sys
import time

from fedlora.core.text import is_plain
from fedlora.federation.record import RoundRecord

_FORM = "%Y-%m-%d %H:%M:%S%z"


def say(line: str) -> None:
    """A line on stdout."""
    print(f"{time.strftime(_FORM)} {line}", flush=True)


def complain(line: str) -> None:
    """A line on stderr."""
    print(f"{time.strftime(_FORM)} fedlora: {line}", file=sys.stderr, flush=True)


def one_line(text: str, most: int) -> str:
    """Text as a single line of printable characters, cut after so many."""
    whole = " ".join(text.split())[:most]
    return "".join(character if is_plain(character, 1) else "?" for character in whole)


def absences(record: RoundRecord) -> str:
    """Who is missing in a round, and why, as the end of its line; empty where nobody is."""
    without = [f"{client.client} ({client.status})" for client in record.clients if client.outcome == "failed"]
    silent = [client.client for client in record.clients if client.outcome != "failed" and client.score is None]
    ends = [f"without {'; '.join(without)}"] if without else []
    ends += [f"no score of {', '.join(silent)}"] if silent and record.evaluated else []
    return "".join(f"  {end}" for end in ends)
