# SPDX-License-Identifier: Apache-2.0
"""The contract of a stage: one object with a client half and a server half between a method and the wire.

A stage is a frozen dataclass whose fields are its hyperparameters, like a method. Everything that a client sends
passes through it, the head included. Where nothing is overridden a stage changes nothing, so that a new one states
what it does and nothing else:

| where | function | when |
|---|---|---|
| client | `request` | before each training that the method asks for |
| client | `outgoing` | on the finished update, before it travels |
| server | `incoming` | on each accepted update, before it is added up |
| server | `step` | on the state that the method made of the total |

A half that needs memory returns it beside its result and gets it back in its next round; it survives a kill.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from fedlora.core.payload import Payload
from fedlora.core.rounds import Fit
from fedlora.core.settings import wrong_number
from fedlora.core.update import Update
from fedlora.errors import MethodError
from fedlora.methods.base import State
from fedlora.methods.facts import Facts


@dataclass(frozen=True)
class Stage:
    """What every stage is."""

    name: ClassVar[str]
    """What it is called in a config."""

    def __post_init__(self) -> None:
        wrong = wrong_number(self)
        if wrong:
            raise MethodError(f"stage {self.name}.{wrong}")

    @property
    def largest_norm(self) -> float | None:
        """The Euclidean norm that no client's whole change, head included, exceeds behind `incoming`; None: no
        such promise. The law `stages` holds it to that."""
        return None

    def check(self, method: str, facts: Facts) -> None:
        """Refuse a method that this stage makes no sense with.

        Args:
            method: its name.
            facts: of the method with the stages before this one.

        Raises:
            MethodError: with a sentence that says what to change.
        """

    def facts(self, facts: Facts) -> Facts:
        """What is left of the facts behind this stage."""
        return facts

    # ------------------------------------------------------------------------------------------ client

    def request(self, fit: Fit, facts: Facts) -> Fit:
        """Client: the training that is asked for in place of `fit`."""
        return fit

    def outgoing(self, update: Update, kept: Payload) -> tuple[Update, Payload]:
        """Client: what is sent in place of `update`, and what to keep for the client's next round.

        Args:
            update: all that the client contributes.
            kept: what the last round kept; empty at first, and after it was lost.
        """
        return update, kept

    # ------------------------------------------------------------------------------------------ server

    def init(self, state: State) -> Payload:
        """Server: what to keep before round 1."""
        return {}

    def incoming(self, update: Update, start: Callable[[], Update]) -> Update:
        """Server: what is added up in place of `update`.

        Args:
            update: as it came, validated.
            start: gives what the update counts from: `update.minus(start())` is the client's change.
        """
        return update

    def step(self, before: State, after: State, kept: Payload) -> tuple[State, Payload]:
        """Server: the next state in place of `after`, and what to keep for the next round.

        Args:
            before: the state that the round was dispatched from.
            after: what the method, and the stages before this one, made of the round.
            kept: what the last round kept.
        """
        return after, kept
