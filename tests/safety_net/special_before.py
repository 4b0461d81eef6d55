"""Methods of a user's own, for cases that no built-in one can play; for the code as of 7702f80."""

from dataclasses import dataclass
from typing import ClassVar

from fedlora.core.adapter import AdapterSpec
from fedlora.core.parcel import Parcel
from fedlora.core.rounds import Client
from fedlora.methods.base import Programme, State
from fedlora.methods.fedit import FedIT
from fedlora.methods.replicate import Replicate


@dataclass(frozen=True)
class Halves(Replicate):
    """Gives every client half of its configured rank (D2: in 7702f80 it gets a quarter)."""

    name: ClassVar[str] = "halves"

    def rank(self, state: State, client: Client) -> int:
        return max(1, client.rank // 2)


@dataclass(frozen=True)
class Breaks(FedIT):
    """Raises an exception at one client's training."""

    name: ClassVar[str] = "breaks"

    def client(self, parcel: Parcel, kept: Parcel, client: Client, spec: AdapterSpec, round: int) -> Programme:
        if client.id == "c2":
            raise ZeroDivisionError("planted")
        return super().client(parcel, kept, client, spec, round)


SPECIAL = {"special:halves": "Halves", "special:breaks": "Breaks"}
