# SPDX-License-Identifier: Apache-2.0
"""What FLoRA and FedEx-LoRA have in common: a part of every round goes into the base's weights for good.

The server keeps the total since W0, and the last rounds' steps while they are cheaper to send than the
total. A client keeps the total that it trained on; it is sent the steps that it missed, or the total where
that is cheaper, and so ends on the same bits as everyone.
"""

from dataclasses import dataclass, replace

from fedlora.core.adapter import AdapterSpec, Start
from fedlora.core.merged import MergedUpdate, grow, merged_at, merged_from_payload, merged_to_payload, numbers
from fedlora.core.payload import Payload, branch, integer_at
from fedlora.core.rounds import Client
from fedlora.core.slots import Part
from fedlora.methods.base import Method, State
from fedlora.methods.facts import Facts


@dataclass(frozen=True)
class Merging(Method):
    """A method with a merged update. Its `advance` ends with `with_merged`."""

    @property
    def facts(self) -> Facts:
        """Clients keep the merged update; what goes into it is made of single clients' factors."""
        return Facts(consumes="individual", exact="update", needs_client_state=True, supports_server_optimizer=False)

    def init(self, spec: AdapterSpec, seed: int) -> State:
        """Server: nothing is merged yet."""
        return replace(super().init(spec, seed), extra={"merged": {}, "steps": {}, "since": 1})

    def dispatch(self, state: State, client: Client, round: int) -> Payload:
        """Server: the factors, and what the client lacks of the merged update."""
        return {**super().dispatch(state, client, round), **self.missing(state, client)}

    def missing(self, state: State, client: Client) -> Payload:
        """Server: the steps since the merged update that the client is known to hold, or the whole merged update.

        A client whose upload of round s was accepted holds the merged update as it was before round s.
        """
        first = 1 if client.last_seen_round is None else client.last_seen_round
        if first < integer_at(state.extra, "since"):
            return {"merged": branch(state.extra, "merged")}
        steps = branch(state.extra, "steps")
        lacking = {round: steps[round] for round in sorted(steps, key=int) if int(round) >= first}
        return {"steps": lacking} if lacking else {}

    def receive(self, payload: Payload, kept: Payload, client: Client, spec: AdapterSpec) -> Start:
        """Client: the factors on the merged update, grown by what was missed.

        A client whose last reply got lost may hold more than the server knows: a step that it has is not
        taken again.
        """
        start = super().receive(payload, kept, client, spec)
        merged = merged_from_payload(branch(payload if "merged" in payload else kept, "merged"))
        held = integer_at(kept, "through") if "through" in kept else 0
        for round, step in sorted(merged_at(payload, "steps").items(), key=lambda item: int(item[0])):
            if int(round) > held:
                merged = grow(merged, step)
        return replace(start, merged=merged)

    def upload(self, start: Start, trained: Start, kept: Payload, round: int) -> tuple[Part, Payload]:
        """Client: the trained sides; the merged update is kept."""
        up, keep = super().upload(start, trained, kept, round)
        return up, {**keep, "merged": merged_to_payload(start.merged), "through": round - 1}

    def with_merged(self, state: State, step: MergedUpdate, round: int) -> State:
        """Server: the state with a step merged in.

        Steps are kept from the newest back, while together they hold no more numbers than the total.
        """
        extra = state.extra
        total = grow(merged_from_payload(branch(extra, "merged")), step)
        steps = {**merged_at(extra, "steps"), str(round): step}
        since, room = integer_at(extra, "since"), numbers(total)
        kept: dict[str, MergedUpdate] = {}
        for name in sorted(steps, key=int, reverse=True):
            room -= numbers(steps[name])
            if room < 0:
                since = int(name) + 1
                break
            kept = {name: steps[name], **kept}
        ledger = {name: merged_to_payload(merged) for name, merged in kept.items()}
        return replace(state, extra={**extra, "merged": merged_to_payload(total), "steps": ledger, "since": since})

    def result(self, state: State) -> Start | None:
        """Server: the factors on the merged update."""
        return Start(state.adapter, merged_from_payload(branch(state.extra, "merged")))
