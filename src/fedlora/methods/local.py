# SPDX-License-Identifier: Apache-2.0
"""Local and central training: the floor and the ceiling that every table needs."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from fedlora.core.adapter import BOTH, Sides
from fedlora.core.kinds import Kind
from fedlora.core.rounds import Upload
from fedlora.methods.base import Exact, Method, State


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
    kinds: ClassVar[frozenset[Kind]] = frozenset({"lora", "vera", "dense"})
    mixed_ranks: ClassVar[bool] = True
    exact: ClassVar[Exact] = "none"
    private: ClassVar[Sides] = BOTH
    supports_server_optimizer: ClassVar[bool] = False

    def aggregate(self, state: State, uploads: Iterable[Upload], round: int) -> State:
        """Nothing to add up."""
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
    mixed_ranks: ClassVar[bool] = False
    centralized: ClassVar[bool] = True
