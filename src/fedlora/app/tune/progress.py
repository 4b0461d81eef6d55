# SPDX-License-Identifier: Apache-2.0
"""A tuning with something to look at: every trial as it ends, and what was chosen."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedlora.app.run.duration import in_words
from fedlora.app.run.progress import new_console
from fedlora.app.tune.told import sentence, table
from fedlora.app.tune.tuning import tune
from fedlora.app.tune.written import BEST


def tune_with_progress(config: Path, overrides: Sequence[str], **settings: Any) -> None:
    """Tune, and tell trials and result.

    Args:
        config: a TOML file.
        overrides: of its keys.
        **settings: see `tune`.
    """
    say = new_console().print
    tuned = tune(config, overrides=overrides, say=say, **settings)
    left_out = tuned.results["left_out"]
    for label, why in left_out.items():
        say(f"left out     {label}: {why}")
    for line in table(tuned.results):
        say(line)
    say(f"time         {in_words(tuned.seconds)}")
    say(sentence(tuned.results))
    say(f"config: {tuned.folder / BEST}")
