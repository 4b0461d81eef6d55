# SPDX-License-Identifier: Apache-2.0
"""What FLoRA and FedEx-LoRA have in common: a part of every round goes into the base's weights for good.

The server keeps the total since W0, and the last rounds' steps while they are cheaper to send than the
total. A client keeps the total that it trained on; it is sent the steps that it missed, or the total where
that is cheaper, and so ends on the same bits as everybody.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from fedlora.core.adapter import AdapterSpec, Start
from fedlora.core.folds import Fold, fold_from_parcel, fold_to_parcel, folds_at, grow, numbers
from fedlora.core.parcel import Parcel, branch, integer_at
from fedlora.core.rounds import Client
from fedlora.methods.base import Exact, Method, State


@dataclass(frozen=True)
class Folding(Method):
    """A method with a fold. Its `aggregate` ends with `folded`."""

    exact: ClassVar[Exact] = "update"
    remembers: ClassVar[bool] = True
    persists: ClassVar[bool] = False

    def init(self, spec: AdapterSpec, seed: int) -> State:
        """Server: nothing is folded yet."""
        return replace(super().init(spec, seed), extra={"fold": {}, "steps": {}, "since": 1})

    def dispatch(self, state: State, client: Client, round: int) -> Parcel:
        """Server: the factors, and what the client lacks of the fold."""
        return {**super().dispatch(state, client, round), **self.missing(state, client)}

    def missing(self, state: State, client: Client) -> Parcel:
        """Server: the steps since the fold that the client is known to hold, or the whole fold.

        A client whose upload of round s was accepted holds the fold as it was before round s.
        """
        first = 1 if client.seen is None else client.seen
        if first < integer_at(state.extra, "since"):
            return {"fold": branch(state.extra, "fold")}
        steps = branch(state.extra, "steps")
        lacking = {round: steps[round] for round in sorted(steps, key=int) if int(round) >= first}
        return {"steps": lacking} if lacking else {}

    def receive(self, parcel: Parcel, kept: Parcel, client: Client, spec: AdapterSpec) -> Start:
        """Client: the factors on the fold, grown by what was missed.

        A client whose last reply got lost may hold more than the server knows: a step that it has is not
        taken again.
        """
        start = super().receive(parcel, kept, client, spec)
        fold = fold_from_parcel(branch(parcel if "fold" in parcel else kept, "fold"))
        held = integer_at(kept, "through") if "through" in kept else 0
        for round, step in sorted(folds_at(parcel, "steps").items(), key=lambda item: int(item[0])):
            if int(round) > held:
                fold = grow(fold, step)
        return replace(start, fold=fold)

    def upload(self, start: Start, trained: Start, kept: Parcel, round: int) -> tuple[Parcel, Parcel]:
        """Client: the trained sides; the fold is kept."""
        up, keep = super().upload(start, trained, kept, round)
        return up, {**keep, "fold": fold_to_parcel(start.fold), "through": round - 1}

    def folded(self, state: State, step: Fold, round: int) -> State:
        """Server: the state with a step folded in.

        Steps are kept from the newest back, while together they hold no more numbers than the total.
        """
        extra = state.extra
        total = grow(fold_from_parcel(branch(extra, "fold")), step)
        steps = {**folds_at(extra, "steps"), str(round): step}
        since, room = integer_at(extra, "since"), numbers(total)
        kept: dict[str, Fold] = {}
        for name in sorted(steps, key=int, reverse=True):
            room -= numbers(steps[name])
            if room < 0:
                since = int(name) + 1
                break
            kept = {name: steps[name], **kept}
        ledger = {name: fold_to_parcel(own) for name, own in kept.items()}
        return replace(state, extra={**extra, "fold": fold_to_parcel(total), "steps": ledger, "since": since})

    def result(self, state: State) -> Start | None:
        """Server: the factors on the fold."""
        return Start(state.adapter, fold_from_parcel(branch(state.extra, "fold")))
