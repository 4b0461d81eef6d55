# SPDX-License-Identifier: Apache-2.0
"""Replication padding: fill a low-rank client's missing slots from those who own them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from fedlora.core.adapter import BOTH, SIDES, AdapterSpec
from fedlora.core.payload import Payload
from fedlora.core.rounds import Client, Fit
from fedlora.core.schema import UploadSchema
from fedlora.core.settings import Positive, Range
from fedlora.core.update import Update
from fedlora.methods.base import Outcome, Programme, State, move_to
from fedlora.methods.facts import Facts
from fedlora.methods.reducers import Both, Reducer, Sender, Senders
from fedlora.methods.slotwise import Centres, Slotwise


@dataclass(frozen=True)
class Replicate(Slotwise):
    """Average A and B apart; slots that a client lacks are copied, at the server, from their owners.

    Idea: padding with zeros dilutes the slots that only high-rank clients train; padding with what those
    clients learned does not.
    Formula: with the owners' weighted mean as the source, the average of the padded factors is the mean
    of every slot over its owners: A[i] = sum_{k owns i} w_k A_k[i] / sum_{k owns i} w_k, B likewise.
    With `promote` all clients start at `start_rank`; round 1 asks everyone to train and to score the result
    on their own validation part, and the best share gets its configured rank from then on. New slots are
    fresh rows of A and zero columns of B.
    What travels: up r_k (d_in + d_out) a module, down the same (the first r_k slots); with `promote` a score
    once.
    Mixed ranks: yes; at equal ranks it is FedIT.
    Exact: no; A and B are still averaged apart.
    Departures: the paper copies from the best high-rank client or the high-rank clients' own mean; the
    weighted mean of the owners is that mean. A slot that nobody owned in the round keeps its value.
    Reference: Byun & Lee, arXiv 2406.17477 (NAACL 2025).
    """

    name: ClassVar[str] = "replicate"

    promote: Annotated[float, Range(at_least=0.0, at_most=1.0)] = 0.0
    """The share of clients that gets its configured rank after round 1, by validation score; 0: everyone has
    it from the start. The paper: 0.1."""
    start_rank: Positive = 5
    """promote: everyone's rank in round 1, and of those who are not promoted."""

    @property
    def facts(self) -> Facts:
        """Promotion goes by each client's validation score."""
        facts = self.by_centre(Facts(mixed_ranks=True, idempotence_tolerance=1e-5))
        return replace(facts, needs_validation=True, consumes="individual") if self.promote else facts

    def rank(self, state: State, client: Client) -> int:
        """Server: the configured rank, but the starting one for who is not promoted."""
        promoted = state.extra.get("promoted", ())
        if not self.promote or (isinstance(promoted, Sequence) and client.id in promoted):
            return client.rank
        return min(client.rank, self.start_rank)

    def full_participation(self, state: State, round: int) -> bool:
        """Server: all clients are asked while nobody is chosen."""
        return self._choosing(state)

    def dispatch(self, state: State, client: Client, round: int) -> Payload:
        """Server: the first slots, and whether a score is wanted."""
        sent = super().dispatch(state, client, round)
        return {**sent, "score": True} if self._choosing(state) else sent

    def upload_schema(self, state: State, client: Client, spec: AdapterSpec, round: int) -> UploadSchema:
        """Server: both sides, and a share of right answers where it was asked for."""
        expected = super().upload_schema(state, client, spec, round)
        return replace(expected, numbers={"score": (0.0, 1.0)}) if self._choosing(state) else expected

    def client(self, payload: Payload, kept: Payload, client: Client, spec: AdapterSpec, round: int) -> Programme:
        """Client: train, and score the result where that is wanted."""
        start = self.receive(payload, kept, client, spec)
        fitted = yield Fit(start, BOTH, score_on="validation" if "score" in payload else None)
        sides, keep = self.upload(start, fitted.start, kept, round)
        numbers = {} if fitted.score is None else {"score": fitted.score}
        return Outcome(Update(client, sides, numbers=numbers), keep)

    def reducer(self, state: State, round: int) -> Reducer[tuple[Centres, tuple[Sender, ...]]]:
        """Server: the sums of every slot, and the scores."""
        return Both(super().reducer(state, round), Senders())

    def advance(self, state: State, total: tuple[Centres, tuple[Sender, ...]], round: int) -> State:
        """Server: the mean of every slot over the clients that own it; and who is promoted."""
        sums, senders = total
        means = {side: sums.keep_unowned(side, sums.owners_mean(side), state.adapter.side(side)) for side in SIDES}
        state = move_to(state, means)
        if not self._choosing(state):
            return state
        scores = {sender.client.id: sender.numbers["score"] for sender in senders if "score" in sender.numbers}
        count = max(1, int(self.promote * len(senders) + 0.5))
        best = sorted(scores, key=lambda client: (-scores[client], client))[:count]
        return replace(state, extra={**state.extra, "promoted": sorted(best)})

    def _choosing(self, state: State) -> bool:
        return self.promote > 0.0 and "promoted" not in state.extra
