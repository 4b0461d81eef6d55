# SPDX-License-Identifier: Apache-2.0
"""How long something takes, in words, and how long it will still take."""


def in_words(seconds: float) -> str:
    """A duration as people say it: `40 s`, `12 min`, `3 h 20 min`, `2 d 5 h`."""
    whole = max(1, round(seconds))
    if whole < 100:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    days, hours = divmod(round(minutes / 60), 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def time_left(seconds: float, done: int, left: int) -> str:
    """What is left of a job whose parts take about the same time, as the end of a line.

    Args:
        seconds: since it began.
        done: parts done in that time, at least 1.
        left: parts that are left.
    """
    return f"about {in_words(seconds / done * left)} left" if left else ""
