# SPDX-License-Identifier: Apache-2.0
"""What a process may use of its machine."""

import os


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
