# SPDX-License-Identifier: Apache-2.0
"""Whether a config asks a model to choose among texts, and where these are."""

from fedlora.app.config.schema import Config
from fedlora.training.metrics.choice import CHOICE_METRICS


def choices_column(config: Config) -> str | None:
    """The column with the texts to choose among; None: no metric of the config asks for a choice."""
    return config.data.choices if {*CHOICE_METRICS} & {*config.evaluate.metrics} else None
