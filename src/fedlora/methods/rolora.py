# SPDX-License-Identifier: Apache-2.0
"""RoLoRA: train and average B and A in turn."""

from dataclasses import dataclass
from typing import ClassVar

from fedlora.core.adapter import INPUT, OUTPUT, Sides
from fedlora.methods.one_side import OneSide


@dataclass(frozen=True)
class RoLoRA(OneSide):
    """Odd rounds move B with A fixed, even rounds A with B fixed.

    Idea: alternation keeps both factors trainable and every average exact.
    Formula: t odd: B += sum_k w_k dB_k; t even: A += sum_k w_k dA_k. The phase is the global round's: a
    client that counts its own rounds would freeze another side than its neighbours.
    What travels: up r d_out or r d_in a module; down the side averaged in the round before, both after a
    missed round.
    Mixed ranks: no.
    Exact: update.
    Departures: clients send the change, not the factor.
    Reference: Chen et al., Robust Federated Finetuning of LLMs via Alternating Optimization of LoRA,
    arXiv 2502.01755 (NeurIPS 2025).
    """

    name: ClassVar[str] = "rolora"

    def trains(self, round: int) -> Sides:
        """Client (and server): B in odd rounds, A in even ones."""
        return OUTPUT if round % 2 else INPUT
