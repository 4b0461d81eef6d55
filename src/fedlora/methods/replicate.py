# SPDX-License-Identifier: Apache-2.0
"""Replication padding: fill a low-rank client's missing slots from those who own them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from fedlora.core.adapter import BOTH, SIDES, AdapterSpec
from fedlora.core.payload import Payload
from fedlora.core.rounds import Client, Fit, Upload
from fedlora.core.schema import UploadSchema
from fedlora.errors import MethodError
from fedlora.methods.base import Outcome, Programme, State, move_to
from fedlora.methods.sides import parts_of
from fedlora.methods.slotwise import Slotwise


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
    mixed_ranks: ClassVar[bool] = True
    idempotence_tolerance: ClassVar[float | None] = 1e-5

    promote: float = 0.0
    """The share of clients that gets its configured rank after round 1, by validation score; 0: everyone has
    it from the start. The paper: 0.1."""
    start_rank: int = 5
    """promote: everyone's rank in round 1, and of those who are not promoted."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.promote <= 1.0:
            raise MethodError(f"method.promote is {self.promote}; it must be from 0 to 1.")
        if self.start_rank < 1:
            raise MethodError(f"method.start_rank is {self.start_rank}; it must be at least 1.")

    def needs_validation(self) -> bool:
        """Promotion goes by validation scores."""
        return self.promote > 0.0

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
        up, keep = self.upload(start, fitted.start, kept, round)
        return Outcome({**up, "score": fitted.score} if fitted.score is not None else up, keep)

    def aggregate(self, state: State, uploads: Iterable[Upload], round: int) -> State:
        """The mean of every slot over the clients that own it; and who is promoted."""
        scores: dict[str, float] = {}
        count = 0

        def listening() -> Iterator[Upload]:
            nonlocal count
            for upload in uploads:
                count += 1
                score = upload.payload.get("score")
                if isinstance(score, int | float):
                    scores[upload.client.id] = float(score)
                yield upload

        sums = self.centres(state.adapter, parts_of(listening(), BOTH))
        means = {side: sums.keep_unowned(side, sums.owners_mean(side), state.adapter.side(side)) for side in SIDES}
        state = move_to(state, means)
        if not self._choosing(state):
            return state
        best = sorted(scores, key=lambda client: (-scores[client], client))[: max(1, int(self.promote * count + 0.5))]
        return replace(state, extra={**state.extra, "promoted": sorted(best)})

    def _choosing(self, state: State) -> bool:
        return self.promote > 0.0 and "promoted" not in state.extra
