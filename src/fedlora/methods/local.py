# SPDX-License-Identifier: Apache-2.0
"""Local and central training: the floor and the ceiling that every table needs."""

from dataclasses import dataclass, replace
from typing import ClassVar

from fedlora.core.adapter import BOTH
from fedlora.core.slots import SlotSums
from fedlora.methods.base import Method, State
from fedlora.methods.facts import Facts


@dataclass(frozen=True)
class Local(Method):
    """Every client trains on its own data and nobody hears of it.

    Idea: the floor; what a client would have without any federation.
    Formula: none. Both sides and the head stay with the client.
    What travels: nothing, but for the common initial A at first contact.
    Mixed ranks: yes.
    Exact: none; there is no global model.
    Departures: none.
    Reference: the usual baseline.
    """

    name: ClassVar[str] = "local"

    @property
    def facts(self) -> Facts:
        """Both sides are private: nothing is shared, and nothing is averaged."""
        return Facts(
            kinds=frozenset(("lora", "vera", "dense")),
            mixed_ranks=True,
            exact="none",
            private_sides=BOTH,
            supports_server_optimizer=False,
        )

    def advance(self, state: State, total: SlotSums, round: int) -> State:
        """Server: nothing was added up."""
        return state


@dataclass(frozen=True)
class Central(Local):
    """One client holds everyone's data.

    Idea: the ceiling; what training would give if the data could be in one place.
    Formula: none. The same code as `local` with a single client, whose test part is the whole test set.
    What travels: nothing, but for the initial A at first contact.
    Mixed ranks: no; the one client has the largest rank.
    Exact: none.
    Departures: none.
    Reference: the usual baseline.
    """

    name: ClassVar[str] = "central"

    @property
    def facts(self) -> Facts:
        """One client, of one rank, with everyone's data."""
        return replace(super().facts, mixed_ranks=False, centralized=True)
