"""A new stage in one file, held to its laws by `fedlora check`.

Rounding with error feedback: a client sends multiples of a unit, and adds what that cut off to its next update.

    fedlora check examples/new_stage.py:Rounded

In a config, behind whatever method it names:

    [[stage]]
    name = "examples/new_stage.py:Rounded"
    unit = 0.01
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from fedlora.core.payload import Payload
from fedlora.core.settings import Range
from fedlora.core.update import Update
from fedlora.federation.stages.base import Stage
from fedlora.methods.facts import Facts


@dataclass(frozen=True)
class Rounded(Stage):
    """Every number that a client sends is a multiple of `unit`, the head's included."""

    name: ClassVar[str] = "rounded"

    unit: Annotated[float, Range(above=0.0)] = 1e-3
    """What all numbers are multiples of."""

    def facts(self, facts: Facts) -> Facts:
        """The mean is rounded, and a client must still hold what was cut off."""
        return replace(facts.inexact(), needs_client_state=True, idempotence_tolerance=None)

    def outgoing(self, update: Update, kept: Payload) -> tuple[Update, Payload]:
        """Client: what is due, rounded; and what is left for the next round."""
        due = update.plus(Update.from_payload(update.client, kept))
        sent = due.mapped(lambda tensor: (tensor / self.unit).round() * self.unit)
        return sent, due.minus(sent).to_payload()
