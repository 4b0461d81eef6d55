# SPDX-License-Identifier: Apache-2.0
"""FedIT: average A and average B."""

from dataclasses import dataclass
from typing import ClassVar

from fedlora.core.adapter import SIDES
from fedlora.methods.base import State, move_to
from fedlora.methods.facts import Facts
from fedlora.methods.slotwise import Centres, Slotwise


@dataclass(frozen=True)
class FedIT(Slotwise):
    """The plain federated average of both factors (FL + LoRA).

    Idea: run LoRA on every client and average the two factors apart.
    Formula: A = sum_k w_k A_k, B = sum_k w_k B_k.
    What travels: up r (d_in + d_out) a module, down the same.
    Mixed ranks: no.
    Exact: no. The mean of products differs from the product of means by the covariance
    sum_k w_k (B_k - B)(A_k - A), zero only when one factor is equal everywhere.
    Departures from the paper: none known.
    Reference: Zhang et al., Towards Building the Federated GPT, arXiv 2305.05644 (ICASSP 2024).
    """

    name: ClassVar[str] = "fedit"

    @property
    def facts(self) -> Facts:
        """Averages of what clients send, of LoRA and VeRA."""
        return self.by_centre(Facts(kinds=frozenset({"lora", "vera"}), idempotence_tolerance=1e-5))

    def advance(self, state: State, total: Centres, round: int) -> State:
        """Server: the weighted mean of each side."""
        means = {side: total.keep_unowned(side, total.mean(side), state.adapter.side(side)) for side in SIDES}
        return move_to(state, means)
