# SPDX-License-Identifier: Apache-2.0
"""Clipping: a bound on how far one client can move the average."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

from fedlora.core.settings import AboveZero
from fedlora.core.update import Update
from fedlora.errors import MethodError
from fedlora.federation.stages.base import Stage
from fedlora.methods.facts import Facts


@dataclass(frozen=True)
class Clip(Stage):
    """Scales a client's change down to a norm, all sides, modules and the head together.

    The change is what was sent less what was dispatched; where clients send changes of their sides, those as they
    are. It happens at the server: a bound that protects the federation from a client cannot be left to that client.
    """

    name: ClassVar[str] = "clip"

    norm: AboveZero = 1.0
    """The largest Euclidean norm of a client's change, its head included."""

    @property
    def largest_norm(self) -> float | None:
        """`norm`."""
        return self.norm

    def check(self, method: str, facts: Facts) -> None:
        """Refuse methods whose clients' starting points the server does not know."""
        if not facts.common_start:
            raise MethodError(
                f"stage clip does not go with {method}: its clients draw factors of their own, so that the "
                f"server cannot tell what an upload changed. Choose another method, or leave the stage out."
            )

    def facts(self, facts: Facts) -> Facts:
        """A clipped mean is no mean."""
        return replace(facts.inexact(), idempotence_tolerance=None)

    def incoming(self, update: Update, start: Callable[[], Update]) -> Update:
        """Server: the update with a change no longer than `norm`; as it came where it is no longer."""
        origin = start()
        change = update.minus(origin)
        length = change.norm()
        share = min(1.0, self.norm / length) if length else 1.0
        return update if share == 1.0 else change.scaled(share).plus(origin)
